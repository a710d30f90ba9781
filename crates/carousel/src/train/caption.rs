//! Trains and measures captioners.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::data::{
    CaptionExample, Counts, DataError, Document, Lengths, Limits, MOST_PLACES, MaxLen, Scaling, Side,
    Subject, TooLong, cut, read_captions,
};
use crate::decode::beam::{Search, greedy_from};
use crate::metrics::{BleuTokens, bleu, exact_matches, rouge_l};
use crate::models::captioner::Captioner;
use crate::models::decoder::Hidden;
use crate::models::reader::Learned;
use crate::ragged::Batch;
use crate::recipe::{InputName, MetricName, Recipe};
use crate::regularize::Noise;
use crate::run::RunFolder;
use crate::saved::{
    CAPTIONER, Caption, KnownCaptions, SavedCaptioner, SubjectBatch, caption_columns, caption_side,
    caption_text, captioner_config, read_json, sentence, subject_kind, write_all,
};
use crate::train::examples::{
    ExampleJob, ExampleTask, Parts, deal, draw, groups, numbered, shifted, spread_over,
};
use crate::train::job::{Facts, Measured, Objective};
use crate::train::trainer::train;
use crate::train::{
    Control, Event, PartStatistics, Score, Sources, Start, Summary, TrainError, precision, write_json,
};

/// What a run's best checkpoint wrote about the test part, in its folder.
pub const CAPTIONS: &str = "captions.json";

/// Captions that an evaluation keeps.
const SHOWN: usize = 12;
/// Captions shown after a validation.
const SAMPLES: usize = 3;
/// Sentences that are measured side by side.
const BATCH: usize = 64;

/// Trains a captioner in a run's folder.
///
/// Subjects are held out with all that is written about them. The folder gets the vocabulary and in the end
/// `captions.json`: how the best checkpoint does on the test part, or on the validation part where there is no other.
///
/// # Errors
/// [`TrainError`] when the data, the folder or a checkpoint does not do, or training diverges.
pub fn caption(
    run: &RunFolder,
    recipe: &Recipe,
    sources: &Sources,
    start: Start,
    on_event: &mut dyn FnMut(&Event<'_>) -> Control,
) -> Result<Summary, TrainError> {
    let precision = precision(recipe)?;
    let parts = read_parts(recipe, sources)?;
    let (side, known) = match start {
        Start::New => {
            let (side, known) = fit(recipe, &parts.train)?;
            run.write_vocab(side.vocab())?;
            write_json(run, CAPTIONER, serde_json::to_string_pretty(&known))?;
            (side, known)
        }
        Start::Resume => (caption_side(recipe, run.read_vocab()?), read_json(run, CAPTIONER)?),
    };
    let too_long = recipe.data.too_long;
    let train_part = sentences(parts.train, &side, &known, too_long)?;
    if train_part.is_empty() {
        let reason = format!(
            "no caption of the training part has at most {} places with both ends; raise data.max_len, or set \
             data.too_long=cut",
            known.max_len
        );
        return Err(DataError::Examples { reason }.into());
    }
    // What is measured stays the same whatever the model can write.
    let measured = |part| sentences(part, &side, &known, TooLong::Cut);
    let parts = Parts { train: train_part, valid: measured(parts.valid)?, test: measured(parts.test)? };
    let statistics: Vec<PartStatistics> = parts
        .named()
        .map(|(part, sentences)| PartStatistics {
            part,
            lengths: Lengths::of(sentences.iter().map(|one| one.ids.len() - 2).collect()),
            classes: Counts::default(),
        })
        .collect();
    on_event(&Event::Examples { parts: &statistics });

    let model = captioner_config(recipe, &known, side.len())
        .init(&Device::default().autodiff())?
        .with_precision(precision);
    let tokens = |part: &[Sentence]| part.iter().map(|one| one.ids.len() - 1).sum();
    let facts = Facts {
        vocabulary: Some(side.len()),
        train_tokens: Some(tokens(&parts.train)),
        valid_tokens: Some(tokens(&parts.valid)),
    };
    let judged = if parts.test.is_empty() { parts.valid.clone() } else { parts.test.clone() };
    let task = Captioning { recipe, side, known };
    let summary = train(run, recipe, ExampleJob::new(task, recipe, model, parts), facts, start, on_event)?;
    if !judged.is_empty() && !summary.stopped {
        let saved = SavedCaptioner::open(run.path())?;
        write_json(run, CAPTIONS, serde_json::to_string(&judge(&saved, &judged, &Search::default())))?;
    }
    Ok(summary)
}

/// Measures the best checkpoint of a run on captions, all of them.
///
/// # Errors
/// [`TrainError`] when the run cannot be opened or the captions do not do.
pub fn evaluate_captioner(
    run: &Path,
    documents: &[Document],
    search: &Search,
) -> Result<CaptionEvaluation, TrainError> {
    let saved = SavedCaptioner::open(run)?;
    let examples = read_captions(documents, caption_columns(&saved.recipe), subject_kind(&saved.recipe))?;
    let sentences = sentences(examples, &saved.side, &saved.known, TooLong::Cut)?;
    Ok(judge(&saved, &sentences, search))
}

/// How well a captioner does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptionEvaluation {
    /// Images, or arrays of features.
    pub subjects: usize,
    /// References; a subject may have several.
    pub references: usize,
    /// Tokens of the references, `<eos>` included.
    pub tokens: usize,
    /// Mean loss of those in nats where the decoder reads the reference.
    pub loss: f64,
    /// `e` to the power of that: teacher-forced perplexity.
    pub perplexity: f64,
    /// The share of the references' tokens that have the highest score, teacher-forced.
    pub accuracy: f64,
    /// BLEU with 1-grams alone, from 0 to 100.
    pub bleu_1: f64,
    /// With 1-grams and 2-grams.
    pub bleu_2: f64,
    /// With 1-grams to 3-grams.
    pub bleu_3: f64,
    /// BLEU as it is usually meant, with 1-grams to 4-grams.
    pub bleu: f64,
    /// That with its parts.
    pub bleu_line: String,
    /// How BLEU was computed.
    pub bleu_signature: String,
    /// The mean of ROUGE-L over the subjects, from 0 to 1, of the best reference each.
    pub rouge_l: f64,
    /// The share of captions that are one of their references.
    pub exact_match: f64,
    /// Rows and columns of the grid that is looked at; `None` where none is.
    pub grid: Option<[usize; 2]>,
    /// Some captions.
    pub examples: Vec<CaptionedExample>,
}

/// A caption beside its references.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptionedExample {
    /// File and line.
    pub place: String,
    /// The file of the subject.
    pub path: String,
    /// What could have been written.
    pub references: Vec<String>,
    /// What was written.
    pub text: String,
    /// Its tokens and the probability of each.
    pub tokens: Vec<(String, f32)>,
    /// For each token how much each place was looked at; empty without attention.
    pub attention: Vec<Vec<f32>>,
}

/// A subject that is ready to be read, shared by the sentences about it.
struct Shown {
    subject: Subject,
    references: Vec<String>,
    path: String,
    place: String,
}

/// A sentence about a subject, ready to be read.
#[derive(Clone)]
struct Sentence {
    shown: Arc<Shown>,
    /// Between [`SOS`](crate::data::SOS) and [`EOS`](crate::data::EOS).
    ids: Vec<u32>,
}

/// Reads the subjects of all parts; what is not given apart is drawn from those for training, group by group.
fn read_parts(recipe: &Recipe, sources: &Sources) -> Result<Parts<CaptionExample>, TrainError> {
    let read = |documents: &[Document]| -> Result<Vec<CaptionExample>, DataError> {
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        read_captions(documents, caption_columns(recipe), subject_kind(recipe))
    };
    let (all, valid, test) = (read(&sources.train)?, read(&sources.valid)?, read(&sources.test)?);
    let paths: Vec<String> = all.iter().map(|example| example.path.display().to_string()).collect();
    let of = |place: usize| (paths[place].as_str(), all[place].group.as_deref());
    let groups = match groups(recipe, sources, all.len(), of)? {
        Some(groups) => groups,
        None => numbered(&paths.iter().map(String::as_str).collect::<Vec<_>>()),
    };
    let places = draw(all.len(), Some(&groups), |_| None::<u32>, recipe, sources);
    Ok(deal(all, places, valid, test)?)
}

/// Learns from the training part how sentences and features are read.
fn fit(recipe: &Recipe, examples: &[CaptionExample]) -> Result<(Side, KnownCaptions), DataError> {
    let data = &recipe.data;
    let texts = || examples.iter().flat_map(|example| &example.texts).map(String::as_str);
    let limits = Limits { min_count: data.min_count, size: data.vocab_size, share: 1.0 };
    let (uniform, splitting) = caption_text(recipe);
    let side = Side::learn(texts(), uniform, splitting, limits)?;
    let lengths: Vec<usize> = texts().map(|text| side.encode(text).len()).collect();
    let max_len = data.max_len.resolve(&lengths);
    if max_len > MOST_PLACES && data.max_len == MaxLen::Auto {
        let reason = format!(
            "a caption of {} tokens, expected at most {}; give data.max_len as a number, such as 102",
            max_len - 2,
            MOST_PLACES - 2
        );
        return Err(DataError::Examples { reason });
    }
    let features = examples.iter().filter_map(|example| match &example.subject {
        Subject::Features(features) => Some(features),
        Subject::Image(_) => None,
    });
    let scaling = (data.input == InputName::Numbers).then(|| Scaling::fit(features)).transpose()?;
    Ok((side, KnownCaptions { max_len, scaling }))
}

fn sentences(
    examples: Vec<CaptionExample>,
    side: &Side,
    known: &KnownCaptions,
    too_long: TooLong,
) -> Result<Vec<Sentence>, DataError> {
    let mut all = Vec::new();
    for CaptionExample { subject, path, texts, place, .. } in examples {
        let rows: Vec<Vec<u32>> = texts.iter().map(|text| side.encode(text)).collect();
        let path = path.display().to_string();
        let shown = Shown { subject: known.scaled(subject)?, references: texts, path, place };
        let shown = Arc::new(shown);
        for mut ids in rows {
            if cut(&mut ids, known.max_len) && too_long == TooLong::Drop {
                continue;
            }
            all.push(Sentence { shown: shown.clone(), ids });
        }
    }
    Ok(all)
}

/// A batch of sentences as the model reads it.
struct Shifted {
    subjects: SubjectBatch,
    inputs: Vec<u32>,
    wanted: Vec<u32>,
    batch: Arc<Batch>,
}

impl Shifted {
    fn new(sentences: &[&Sentence]) -> Shifted {
        let (inputs, wanted, batch) = shifted(sentences.iter().map(|one| one.ids.as_slice()));
        let subjects = SubjectBatch::new(sentences.iter().map(|one| &one.shown.subject));
        Shifted { subjects, inputs, wanted, batch }
    }
}

/// Loss in nats, targets, and how many of them have the highest score.
fn losses(model: &Captioner, sentences: &[Sentence]) -> (f64, usize, usize) {
    let mut sum = (0.0, 0, 0);
    for part in sentences.chunks(BATCH) {
        let Shifted { subjects, inputs, wanted, batch } = Shifted::new(&part.iter().collect::<Vec<_>>());
        let loss = model.measure(subjects.read(), &inputs, &wanted, &batch);
        sum = (sum.0 + loss.nats, sum.1 + loss.count, sum.2 + loss.correct);
    }
    sum
}

/// The subjects of sentences, each once.
fn subjects(sentences: &[Sentence]) -> Vec<&Arc<Shown>> {
    let same = |a: &Sentence, b: &Sentence| Arc::ptr_eq(&a.shown, &b.shown);
    sentences.chunk_by(same).map(|about| &about[0].shown).collect()
}

/// Scores of captions.
struct Scored {
    bleu: crate::metrics::Bleu,
    rouge_l: f64,
    exact_match: f64,
}

fn score(recipe: &Recipe, side: &Side, answers: &[String], shown: &[&Arc<Shown>]) -> Scored {
    let lowercase = recipe.data.lowercase;
    let each = |of: &dyn Fn(&str) -> String| -> Vec<Vec<String>> {
        shown.iter().map(|one| one.references.iter().map(|text| of(text)).collect()).collect()
    };
    let (normal, references) = (each(&|text| side.normal(text)), each(&|text| side.in_form(text)));
    let tokens: BleuTokens = recipe.train.bleu_tokens;
    let words = |text: &String| tokens.split(&if lowercase { text.to_lowercase() } else { text.clone() });
    let common = |(answer, references): (&String, &Vec<String>)| {
        rouge_l(&words(answer), &references.iter().map(words).collect::<Vec<_>>())
    };
    let count = answers.len().max(1) as f64;
    Scored {
        bleu: bleu(answers, &references, tokens, lowercase),
        rouge_l: answers.iter().zip(&references).map(common).sum::<f64>() / count,
        exact_match: exact_matches(answers, &normal) as f64 / count,
    }
}

fn judge(saved: &SavedCaptioner, sentences: &[Sentence], search: &Search) -> CaptionEvaluation {
    let SavedCaptioner { recipe, side, known, model } = saved;
    let shown = subjects(sentences);
    let seen: Vec<&Subject> = shown.iter().map(|one| &one.subject).collect();
    let best: Vec<Caption> = write_all(model, &seen, known, search)
        .iter()
        .filter_map(|all| Some(Caption::of(all.first()?, side)))
        .collect();
    let answers: Vec<String> = best.iter().map(|caption| caption.text.clone()).collect();
    let Scored { bleu, rouge_l, exact_match } = score(recipe, side, &answers, &shown);
    let (nats, tokens, correct) = losses(model, sentences);
    let loss = nats / tokens.max(1) as f64;
    let examples = shown.iter().zip(best).take(SHOWN).map(|(shown, caption)| CaptionedExample {
        place: shown.place.clone(),
        path: shown.path.clone(),
        references: shown.references.clone(),
        text: caption.text,
        tokens: (caption.tokens.into_iter().zip(&caption.log_probabilities))
            .map(|(token, log)| (token, log.exp()))
            .collect(),
        attention: caption.attention,
    });
    CaptionEvaluation {
        subjects: shown.len(),
        references: shown.iter().map(|one| one.references.len()).sum(),
        tokens,
        loss,
        perplexity: loss.exp(),
        accuracy: correct as f64 / tokens.max(1) as f64,
        bleu_1: bleu.up_to(1),
        bleu_2: bleu.up_to(2),
        bleu_3: bleu.up_to(3),
        bleu: bleu.score,
        bleu_line: bleu.to_string(),
        bleu_signature: bleu.signature,
        rouge_l,
        exact_match,
        grid: saved.grid(),
        examples: examples.collect(),
    }
}

struct Captioning<'a> {
    recipe: &'a Recipe,
    side: Side,
    known: KnownCaptions,
}

impl Captioning<'_> {
    fn text(&self, ids: &[u32]) -> String {
        sentence(&self.side, ids)
    }

    fn greedy(&self, model: &Captioner, subjects: &[&Subject]) -> Vec<String> {
        let one = |part: &[&Subject]| {
            let batch = SubjectBatch::new(part.iter().copied());
            let writer = model.writer(&model.encode(batch.read()));
            greedy_from(writer, &vec![self.known.most_tokens(); part.len()])
        };
        subjects.chunks(BATCH).flat_map(one).map(|ids| self.text(&ids)).collect()
    }

    /// Loss of all sentences, and scores of what `write` makes of `most` subjects.
    fn measured(
        &self,
        model: &Captioner,
        sentences: &[Sentence],
        most: usize,
        write: impl Fn(&[&Subject]) -> Vec<String>,
    ) -> Measured {
        let (loss, targets, correct) = losses(model, sentences);
        let mut measured =
            Measured { loss, targets, answers: Some((correct, targets)), ..Measured::default() };
        let all = subjects(sentences);
        let shown: Vec<&Arc<Shown>> = spread_over(all.len(), most).map(|place| all[place]).collect();
        if shown.is_empty() {
            return measured;
        }
        let answers = write(&shown.iter().map(|one| &one.subject).collect::<Vec<_>>());
        let Scored { bleu, rouge_l, exact_match } = score(self.recipe, &self.side, &answers, &shown);
        measured.criterion = match self.recipe.train.metric {
            Some(MetricName::Bleu) => Some(bleu.score),
            Some(MetricName::ExactMatch) => Some(exact_match),
            _ => None,
        };
        measured.scores = vec![
            Score::new("bleu", bleu.score),
            Score::new("rouge_l", rouge_l),
            Score::new("exact_match", exact_match),
            Score::new("bleu_1", bleu.up_to(1)),
            Score::new("bleu_2", bleu.up_to(2)),
            Score::new("bleu_3", bleu.up_to(3)),
        ];
        measured
    }
}

impl ExampleTask for Captioning<'_> {
    type Model = Captioner;
    type Example = Sentence;

    fn length(&self, example: &Sentence) -> usize {
        example.ids.len() - 1
    }

    fn targets(&self, example: &Sentence) -> usize {
        example.ids.len() - 1
    }

    fn objective(&self, model: &Captioner, batch: &[&Sentence], noise: Noise, _: u64) -> Objective {
        let Shifted { subjects, inputs, wanted, batch } = Shifted::new(batch);
        let Hidden { recurrent, read } = model.hidden(subjects.read(), &inputs, &batch, Some(noise));
        let loss = model.output().cross_entropy(read.clone(), &wanted);
        let learned = Learned { loss, raw: recurrent, dropped: read };
        Objective::priced(learned, &self.recipe.train, &batch)
    }

    fn measure(&self, model: &Captioner, examples: &[Sentence]) -> Measured {
        let model = model.valid();
        let most = self.recipe.train.decode_sentences;
        self.measured(&model, examples, most, |subjects| self.greedy(&model, subjects))
    }

    fn test(&self, model: &Captioner, examples: &[Sentence]) -> Measured {
        let model = model.valid();
        self.measured(&model, examples, usize::MAX, |subjects| {
            let found = write_all(&model, subjects, &self.known, &Search::default());
            found.iter().filter_map(|all| all.first()).map(|best| self.text(&best.tokens)).collect()
        })
    }

    fn sample(&self, model: &Captioner, examples: &[Sentence]) -> Option<String> {
        if self.recipe.train.decode_sentences == 0 {
            return None;
        }
        let shown = subjects(examples);
        let chosen: Vec<&Arc<Shown>> = spread_over(shown.len(), SAMPLES).map(|place| shown[place]).collect();
        let subjects: Vec<&Subject> = chosen.iter().map(|one| &one.subject).collect();
        let found = self.greedy(&model.valid(), &subjects);
        Some(chosen.iter().zip(&found).map(|(one, text)| format!("{} → {text}\n", one.path)).collect())
    }
}
