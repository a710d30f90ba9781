//! `carousel inspect gradients`: how error flows back through a run, and through untrained nets beside it.

use std::fmt::Write;
use std::path::PathBuf;

use carousel::cell::{Activation, Cell, Reset};
use carousel::lens::{Flow, GradientFlow, Start, Text, follow_gradients};
use carousel::models::language_model::LanguageModel;
use carousel::report::{FlowLayer, GradientsPage, NetFlow, Point};
use carousel::run::RunFolder;
use carousel::saved::{self, SavedLanguageModel};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{SubjectArgs, Working};
use crate::output::{self, Form};

const EXAMPLES: &str = "\
Examples:
  carousel inspect gradients runs/lm-001 --data code.c
  carousel inspect gradients runs/lm-001 --data code.c --lags 128 \\
      --compare rnn,lstm,gru --init xavier,orthogonal --activation tanh,relu

The loss at random places is followed back: the norm of its gradient by the
state h (of an LSTM c too) so many tokens before. `rate` is the factor a token;
`radius` the spectral radius of the step's Jacobian, `largest` its largest
singular value. --compare adds untrained nets of the run's size: rnn, lstm, gru,
their recurrent weights xavier, orthogonal or identity, an rnn's activation tanh
or relu.";

/// See how error flows back through time
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GradientsArgs {
    #[command(flatten)]
    subject: SubjectArgs,

    /// Tokens to follow the error back
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true, value_parser = super::tokens)]
    lags: usize,

    /// Places in the text to start from
    #[arg(long, value_name = "N", default_value_t = 32, allow_negative_numbers = true, value_parser = super::tokens)]
    places: usize,

    /// Untrained cells to put beside the run
    #[arg(long, value_name = "CELL,CELL", value_delimiter = ',', hide_possible_values = true)]
    compare: Vec<Kind>,

    /// Their recurrent weights
    #[arg(
        long,
        value_name = "INIT,INIT",
        value_delimiter = ',',
        default_value = "orthogonal",
        hide_possible_values = true,
        requires = "compare"
    )]
    init: Vec<Weights>,

    /// Activations of an untrained rnn
    #[arg(
        long,
        value_name = "NAME,NAME",
        value_delimiter = ',',
        default_value = "tanh",
        hide_possible_values = true,
        requires = "compare"
    )]
    activation: Vec<Nonlinearity>,

    /// Write the curves as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Where places and weights start
    #[arg(long, value_name = "N", value_parser = crate::usage::whole::<u64>, allow_negative_numbers = true, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    Rnn,
    Lstm,
    Gru,
}

#[derive(Clone, Copy, ValueEnum)]
enum Weights {
    Xavier,
    Orthogonal,
    Identity,
}

#[derive(Clone, Copy, ValueEnum)]
enum Nonlinearity {
    Tanh,
    Relu,
}

pub(crate) fn run(args: &GradientsArgs) -> anyhow::Result<()> {
    super::check_page(args.html.as_ref())?;
    let (saved, text) = args.subject.open(|_| usize::MAX)?;
    let cell = saved.model.recurrent().cell();
    if saved.model.recurrent().options().projection.is_some() {
        anyhow::bail!(
            "error is followed back unit by unit, and this run's h is a mixture of all units; it has model.projection"
        );
    }
    if cell.fused().is_none() {
        anyhow::bail!(
            "error is followed back through the kernels' cells, rnn, lstm and gru; this run's is {}",
            cell.name()
        );
    }
    if text.len() < args.lags + 2 {
        anyhow::bail!(
            "the text has {} tokens, expected at least {} for --lags {}; give more, or lower --lags",
            text.len(),
            args.lags + 2,
            args.lags
        );
    }
    let how = Flow { lags: args.lags, places: args.places, seed: args.seed, ..Flow::default() };
    let mut working = Working::new();
    let mut flows = vec![follow("trained", &saved.model, &text, &how, &mut working)];
    for (name, model) in untrained(args, &saved)? {
        flows.push(follow(&name, &model, &text, &how, &mut working));
    }
    drop(working);
    let log = Log::of(&RunFolder::open(&args.subject.run)?.read_metrics()?);
    if let Some(path) = &args.html {
        super::write_page(path, &page(args, &flows, log.as_ref()).to_html())?;
    }
    match Form::from_flag(args.subject.json) {
        Form::Json => output::json(&json!({
            "run": args.subject.run,
            "lags": args.lags,
            "places": args.places,
            "flows": flows
                .iter()
                .map(|(name, flow)| json!({"name": name, "layers": flow.layers}))
                .collect::<Vec<_>>(),
            "training": log.as_ref().map(Log::json),
        })),
        Form::Text => {
            let mut shown = curves(&flows, args.lags);
            if cell.has_cell_state() && flows[0].1.layers.iter().all(|layer| layer.c.is_empty()) {
                shown.push_str(
                    "c of the run is left out: peepholes, zoneout, or hard gates with layer\n\
                     normalisation read it in more ways\n",
                );
            }
            shown.push_str(&jacobians(&flows));
            if let Some(log) = log {
                shown.push_str(&log.describe());
            }
            output::result(&shown)
        }
    }
}

fn follow(
    name: &str,
    model: &LanguageModel,
    text: &Text,
    how: &Flow,
    working: &mut Working,
) -> (String, GradientFlow) {
    (name.to_owned(), follow_gradients(model, text, how, |share| working.draw(name, share)))
}

/// The nets of `--compare`, of the run's size.
fn untrained(
    args: &GradientsArgs,
    saved: &SavedLanguageModel,
) -> anyhow::Result<Vec<(String, LanguageModel)>> {
    let mut models = Vec::new();
    for &kind in &args.compare {
        let cells: Vec<(String, Cell)> = match kind {
            Kind::Rnn => args
                .activation
                .iter()
                .map(|activation| match activation {
                    Nonlinearity::Tanh => ("rnn tanh".to_owned(), Cell::Rnn(Activation::Tanh)),
                    Nonlinearity::Relu => ("rnn relu".to_owned(), Cell::Rnn(Activation::Relu)),
                })
                .collect(),
            Kind::Lstm => vec![("lstm".to_owned(), Cell::Lstm)],
            Kind::Gru => vec![("gru".to_owned(), Cell::Gru(Reset::After))],
        };
        for (name, cell) in cells {
            for &init in &args.init {
                let start = match init {
                    Weights::Xavier => Start::Xavier,
                    Weights::Orthogonal => Start::Orthogonal,
                    Weights::Identity => Start::Identity,
                };
                let mut config = saved::language_model_config(&saved.recipe, saved.tokenizer.vocab().len());
                config.cell = cell.into();
                config.seed = args.seed;
                models.push((format!("{name} {}", start.name()), start.untrained(&config)?));
            }
        }
    }
    Ok(models)
}

fn page(args: &GradientsArgs, flows: &[(String, GradientFlow)], log: Option<&Log>) -> GradientsPage {
    let points = |of: fn(&(u64, f64, f64)) -> f64| -> Vec<Point> {
        let lines = log.map_or(&[][..], |log| &log.lines);
        lines.iter().map(|line| Point { step: line.0, value: of(line) }).collect()
    };
    GradientsPage {
        title: super::run_name(&args.subject.run),
        subtitle: format!(
            "How the loss at a token reaches the states before it, mean of {} places. Where a curve falls, error \
             vanishes; where it rises, it explodes; an LSTM's c is the carousel that carries it on.",
            flows.first().map_or(0, |(_, flow)| flow.places)
        ),
        nets: flows
            .iter()
            .map(|(name, flow)| NetFlow {
                name: name.clone(),
                layers: flow
                    .layers
                    .iter()
                    .map(|layer| FlowLayer {
                        h: layer.h.clone(),
                        c: layer.c.clone(),
                        rate: layer.rate,
                        radius: layer.jacobian.radius,
                        singular: layer.jacobian.singular.clone(),
                    })
                    .collect(),
            })
            .collect(),
        norms: points(|line| line.1),
        clipped: points(|line| line.2),
    }
}

/// Norms at lags 0, 1, 2, 4, … as shares of the first.
fn curves(flows: &[(String, GradientFlow)], lags: usize) -> String {
    let mut columns = vec![0];
    let mut lag = 1;
    while lag <= lags {
        columns.push(lag);
        lag *= 2;
    }
    if columns.last() != Some(&lags) {
        columns.push(lags);
    }
    // Eight of them fit; the longer lags say more.
    if columns.len() > 7 {
        columns.drain(1..columns.len() - 6);
    }
    let mut shown = format!(
        "norm of dL[t]/dh[t-k] (c: /dc), mean of {} places\n\n{:<24}",
        flows.first().map_or(0, |(_, flow)| flow.places),
        "k"
    );
    for lag in &columns {
        let _ = write!(shown, "{lag:>8}");
    }
    shown.push('\n');
    for (name, flow) in flows {
        for (layer, layers) in flow.layers.iter().enumerate() {
            for (signal, norms) in [("h", &layers.h), ("c", &layers.c)] {
                if norms.is_empty() {
                    continue;
                }
                let _ = write!(shown, "{name:<19} {:<4}", format!("{signal}_l{layer}"));
                for &lag in &columns {
                    let _ = write!(shown, "{:>8}", compact(norms[lag]));
                }
                shown.push('\n');
            }
        }
    }
    shown
}

/// Two digits and a power of ten where the number is far from one.
fn compact(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if (0.01..1000.0).contains(&value) => format!("{value:.3}"),
        value => format!("{value:.1e}"),
    }
}

fn jacobians(flows: &[(String, GradientFlow)]) -> String {
    let mut shown = format!(
        "\n{:<24}{:>8}{:>9}{:>10}   {}\n",
        "the step's Jacobian", "rate", "radius", "largest", "next singular values"
    );
    for (name, flow) in flows {
        for (layer, layers) in flow.layers.iter().enumerate() {
            let singular = &layers.jacobian.singular;
            let next: Vec<String> = singular.iter().skip(1).map(|value| format!("{value:.3}")).collect();
            let _ = writeln!(
                shown,
                "{name:<19} {:<4}{:>8.3}{:>9.3}{:>10.3}   {}",
                format!("l{layer}"),
                layers.rate,
                layers.jacobian.radius,
                singular.first().copied().unwrap_or_default(),
                next.join("  ")
            );
        }
    }
    shown
}

/// What the run's log says of its gradients.
struct Log {
    /// Step, norm and share of clipped steps.
    lines: Vec<(u64, f64, f64)>,
}

impl Log {
    fn of(metrics: &[Value]) -> Option<Log> {
        let lines: Vec<(u64, f64, f64)> = metrics
            .iter()
            .filter(|line| line["kind"] == "train")
            .filter_map(|line| {
                Some((line["step"].as_u64()?, line["gradient_norm"].as_f64()?, line["clipped"].as_f64()?))
            })
            .collect();
        (!lines.is_empty()).then_some(Log { lines })
    }

    /// First, middle and last tenth of the training: step, mean norm, share clipped.
    fn parts(&self) -> Vec<(u64, f64, f64)> {
        let tenth = (self.lines.len() / 10).max(1);
        let middle = self.lines.len() / 2;
        let starts = [0, middle.saturating_sub(tenth / 2), self.lines.len() - tenth];
        let part = |start: usize| {
            let lines = &self.lines[start..(start + tenth).min(self.lines.len())];
            let mean =
                |of: fn(&(u64, f64, f64)) -> f64| lines.iter().map(of).sum::<f64>() / lines.len() as f64;
            (lines[lines.len() - 1].0, mean(|line| line.1), mean(|line| line.2))
        };
        starts.into_iter().map(part).collect()
    }

    fn json(&self) -> Value {
        let norms: Vec<(u64, f64, f64)> = self.lines.clone();
        json!(
            norms
                .iter()
                .map(|(step, norm, clipped)| json!({"step": step, "gradient_norm": norm, "clipped": clipped}))
                .collect::<Vec<_>>()
        )
    }

    fn describe(&self) -> String {
        let mut shown = String::from("\nin training            up to step   gradient norm   clipped\n");
        for (name, (step, norm, clipped)) in ["first tenth", "middle", "last tenth"].iter().zip(self.parts())
        {
            let _ = writeln!(shown, "{name:<17} {step:>15} {norm:>15.3} {:>7.1} %", clipped * 100.0);
        }
        shown
    }
}
