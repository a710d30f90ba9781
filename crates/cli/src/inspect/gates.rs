//! `carousel inspect gates`: how the gates of a run stand over a text.

use std::fmt::Write;
use std::path::PathBuf;

use carousel::lens::{Gate, GateReport, watch_gates};
use carousel::report::{GatePicture, GatesPage, thousands};
use clap::Args;
use serde_json::json;

use super::{ReadingArgs, SubjectArgs, Working};
use crate::output::{self, Form};

const EXAMPLES: &str = "\
Examples:
  carousel inspect gates runs/lm-001 --data code.c
  carousel inspect gates runs/lm-001 --data code.c --json | jq .dead

A gate is saturated on the left while it is below 0.1, on the right while it is
above 0.9. The time constant of a unit is the number of tokens after which 1/e
of its state is left, from the gate that keeps it: f of an LSTM, z of a GRU.";

/// See how the gates of a run stand
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GatesArgs {
    #[command(flatten)]
    subject: SubjectArgs,

    #[command(flatten)]
    reading: ReadingArgs,

    /// Write the pictures as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) fn run(args: &GatesArgs) -> anyhow::Result<()> {
    super::check_page(args.html.as_ref())?;
    let (saved, text) = args.subject.open(|_| usize::MAX)?;
    let mut working = Working::new();
    let report = watch_gates(&saved.model, &text, &args.reading.reading(), |share| {
        working.draw("reading", share);
    });
    drop(working);
    if let Some(path) = &args.html {
        super::write_page(path, &page(args, &report).to_html())?;
    }
    match Form::from_flag(args.subject.json) {
        Form::Json => {
            let mut line = json!({"run": args.subject.run});
            super::extend(&mut line, &report)?;
            output::json(&line)
        }
        Form::Text => output::result(&tables(&report)),
    }
}

fn page(args: &GatesArgs, report: &GateReport) -> GatesPage {
    let picture = |gate: &Gate| GatePicture {
        layer: gate.layer,
        name: gate.name.clone(),
        left: gate.left.clone(),
        right: gate.right.clone(),
        time: gate.time.clone(),
    };
    let layers = report.saturated_h.iter().zip(&report.dead).enumerate();
    GatesPage {
        title: super::run_name(&args.subject.run),
        subtitle: format!("Over {} tokens.", thousands(report.tokens as u64)),
        gates: report.gates.iter().map(picture).collect(),
        layers: layers
            .map(|(layer, (saturated, dead))| {
                let mean = saturated.iter().sum::<f64>() / saturated.len().max(1) as f64;
                let dead = format!("{} of {}", dead.len(), saturated.len());
                [layer.to_string(), format!("{:.1} %", mean * 100.0), dead]
            })
            .collect(),
    }
}

fn tables(report: &GateReport) -> String {
    let mut shown = format!("gates over {} tokens\n\n", thousands(report.tokens as u64));
    if !report.gates.is_empty() {
        shown.push_str("                 share of time, mean over units       units (most of their time)\n");
        shown.push_str("layer gate     mean    below 0.1    above 0.9       shut    open   between\n");
        for gate in &report.gates {
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
            let most = |values: &[f64]| values.iter().filter(|&&share| share > 0.5).count();
            let (shut, open) = (most(&gate.left), most(&gate.right));
            let _ = writeln!(
                shown,
                "{:<5} {:<5} {:>7.2} {:>10.1} % {:>10.1} %   {:>8} {:>7} {:>9}",
                gate.layer,
                gate.name,
                mean(&gate.mean),
                mean(&gate.left) * 100.0,
                mean(&gate.right) * 100.0,
                shut,
                open,
                gate.mean.len() - shut - open
            );
        }
        shown.push('\n');
    }
    let keeping: Vec<&Gate> = report.gates.iter().filter(|gate| !gate.time.is_empty()).collect();
    if !keeping.is_empty() {
        shown.push_str("time constants in tokens\n");
        shown.push_str("layer    shortest      10 %    median      90 %   longest   of unit\n");
        for gate in keeping {
            let mut sorted: Vec<(f64, usize)> =
                gate.time.iter().enumerate().map(|(unit, &time)| (time, unit)).collect();
            sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
            let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
            let _ = writeln!(
                shown,
                "{:<5} {:>11.1} {:>9.1} {:>9.1} {:>9.1} {:>9.0}   {:>7}",
                gate.layer,
                at(0.0).0,
                at(0.1).0,
                at(0.5).0,
                at(0.9).0,
                at(1.0).0,
                at(1.0).1
            );
        }
        shown.push('\n');
    }
    shown.push_str("layer   h beyond 0.9   units that do nothing\n");
    for (layer, (dead, saturated)) in report.dead.iter().zip(&report.saturated_h).enumerate() {
        let mean = saturated.iter().sum::<f64>() / saturated.len().max(1) as f64;
        let names: Vec<String> = dead.iter().take(8).map(ToString::to_string).collect();
        let more = if dead.len() > names.len() { ", …" } else { "" };
        let listed = if dead.is_empty() { String::new() } else { format!(": {}{more}", names.join(", ")) };
        let _ = writeln!(
            shown,
            "{layer:<5} {:>12.1} %   {} of {}{listed}",
            mean * 100.0,
            dead.len(),
            saturated.len()
        );
    }
    shown
}
