use std::fs;
use std::path::{Path, PathBuf};

use super::register::{KEYS, OnlyWith, find};
use super::*;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn default() -> Recipe {
    Recipe::default_for(Task::Lm)
}

#[test]
fn the_register_in_the_documentation_lists_these_keys_and_defaults() {
    let text = fs::read_to_string(repository("docs/recipe.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let documented: Vec<String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 4, "{row}");
            let known = KEYS.iter().find(|key| cells[0] == format!("`{}`", key.name));
            let listed = |OnlyWith { key, values }: OnlyWith| {
                let quoted = |value: &&str| match *value {
                    "true" | "false" => value.to_string(),
                    name => format!("\"{name}\""),
                };
                let values: Vec<String> = values.iter().map(quoted).collect();
                format!("with `{key} = {}`.", values.join("` or `"))
            };
            let only = known.and_then(|key| key.only_with).map(|only| format!("Only {}", listed(only)));
            let and = known.and_then(|key| key.and_with).map(|and| format!("And {}", listed(and)));
            let free = known.and_then(|key| key.free_with);
            let free = free.map(|free| format!("Whatever that is {}", listed(free)));
            let conditions: Vec<String> = only.into_iter().chain(and).chain(free).collect();
            assert!(cells[3].ends_with(&conditions.join(" ")), "{row}\nshould end with {conditions:?}");
            assert_eq!(cells[3].contains("Only with"), !conditions.is_empty(), "{row}");
            cells[..3].join(" | ")
        })
        .collect();
    let known: Vec<String> = KEYS
        .iter()
        .map(|key| {
            let value = (key.get)(&default());
            let value = value.map_or("unset".to_owned(), |value| format!("`{value}`"));
            format!("`{}` | {} | {value}", key.name, key.kind)
        })
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn every_recipe_of_the_project_is_valid() {
    let mut names = Vec::new();
    for entry in fs::read_dir(repository("recipes")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(text.starts_with("# "), "{name} needs a header that says what it is");
        if let Err(error) = Recipe::from_toml(&text, &name) {
            panic!("{error}");
        }
        names.push(name);
    }
    assert!(names.contains(&"char-rnn.toml".to_owned()), "{names:?}");
}

#[test]
fn every_key_changes_the_recipe_and_survives_a_file() {
    let others = [
        ("task", "lm", ""),
        ("seed", "7", ""),
        ("data.split", "[0.5, 0.25, 0.25]", ""),
        ("data.documents", "lines", ""),
        ("data.memory", "0", ""),
        ("data.input", "numbers", "task=classify"),
        ("data.path", "file", "task=caption"),
        ("data.text", "review", "task=classify"),
        ("data.label", "stars", "task=classify"),
        ("data.group", "author", "task=classify"),
        ("data.file_group", "^(.)", "task=tag"),
        ("data.id", "series", "task=classify data.input=numbers"),
        ("data.step", "time", "task=tag data.input=numbers"),
        ("data.file_label", "(.)_", "task=classify data.input=audio"),
        ("data.word_column", "2", "task=tag"),
        ("data.tag_column", "3", "task=tag"),
        ("data.sound", "mfcc", "task=classify data.input=audio"),
        ("data.image_size", "64", "task=tag data.input=images"),
        ("data.color", "false", "task=tag data.input=images"),
        ("data.quoting", "false", "task=classify"),
        ("data.max_length", "200", "task=classify"),
        ("data.targets", "a, b", "task=forecast"),
        ("data.features", "[\"a,b\"]", "task=forecast"),
        ("data.time", "hour", "task=forecast"),
        ("data.gaps", "ignore", "task=forecast"),
        ("data.window", "24", "task=forecast"),
        ("data.horizon", "1", "task=forecast"),
        ("data.season", "7", "task=forecast"),
        ("data.stride", "5", "task=forecast"),
        ("data.scaling", "window", "task=forecast"),
        ("data.format", "files", "task=translate"),
        ("data.source", "2", "task=translate"),
        ("data.target", "1", "task=translate"),
        ("data.source_column", "en", "task=translate"),
        ("data.target_column", "translation.fr", "task=translate"),
        ("data.stress", "true", "task=translate"),
        ("data.unicode", "nfkc", "task=translate"),
        ("data.lowercase", "true", "task=translate"),
        ("data.tokens", "byte", ""),
        ("data.source_tokens", "char", "task=translate"),
        ("data.target_tokens", "bpe", "task=translate"),
        ("data.split_punctuation", "false", "task=translate"),
        ("data.joint_vocab", "true", "task=translate"),
        ("data.max_len", "auto", "task=translate"),
        ("data.too_long", "cut", "task=translate"),
        ("data.reverse_source", "true", "task=translate"),
        ("data.min_count", "3", "data.tokens=word"),
        ("data.vocab_size", "10000", "data.tokens=word"),
        ("data.length", "400", "task=adding train.steps=9"),
        ("data.symbols", "4", "task=copy train.steps=9"),
        ("data.memorize", "5", "task=copy train.steps=9"),
        ("model.cell", "rnn", ""),
        ("model.activation", "relu", "model.cell=rnn"),
        ("model.gate_activation", "hard-sigmoid", ""),
        ("model.reset", "before", "model.cell=gru"),
        ("model.peephole", "true", ""),
        ("model.projection", "64", ""),
        ("model.layers", "3", ""),
        ("model.hidden", "200", ""),
        ("model.embedding", "64", ""),
        ("model.filters", "8", "task=tag data.input=images"),
        ("model.convolutions", "4", "task=tag data.input=images"),
        ("model.direction", "forward", "task=classify"),
        ("model.merge", "sum", "task=classify"),
        ("model.lookahead", "5", "task=tag data.input=numbers model.direction=forward"),
        ("model.pooling", "max", "task=classify"),
        ("model.told", "input", "task=caption"),
        ("model.attention", "additive", "task=translate"),
        ("model.input_feeding", "true", "task=translate"),
        ("model.bridge", "copy", "task=translate"),
        ("model.share_embeddings", "true", "task=translate data.joint_vocab=true"),
        ("model.characters", "25", "task=tag data.tokens=word"),
        ("model.crf", "true", "task=tag data.tokens=word"),
        ("model.base", "season", "task=forecast data.season=7"),
        ("model.quantiles", "[0.25, 0.5]", "task=forecast"),
        ("model.dense_activation", "gelu", "task=classify model.cell=none"),
        ("model.norm", "layer", ""),
        ("model.norm_steps", "30", "model.norm=batch-recurrent"),
        ("model.residual", "true", ""),
        ("model.learned_state", "true", ""),
        ("model.tie_embeddings", "true", ""),
        ("model.dropout", "0.5", ""),
        ("model.input_dropout", "0.4", ""),
        ("model.output_dropout", "0.3", ""),
        ("model.locked_dropout", "true", "model.output_dropout=0.5"),
        ("model.embedding_dropout", "0.1", ""),
        ("model.weight_dropout", "0.5", ""),
        ("model.recurrent_dropout", "0.25", ""),
        ("model.update_dropout", "0.3", ""),
        ("model.zoneout", "0.15", ""),
        ("model.zoneout_cell", "0.5", ""),
        ("model.init", "xavier-normal", ""),
        ("model.init_range", "0.05", "model.init=uniform"),
        ("model.init_gain", "2", "model.init=orthogonal"),
        ("model.init_fan", "out", "model.init=he-normal"),
        ("model.recurrent_init", "identity", ""),
        ("model.recurrent_gain", "0.5", "model.recurrent_init=identity"),
        ("model.forget_bias", "0", ""),
        ("model.chrono", "200", ""),
        ("train.epochs", "2.5", ""),
        ("train.steps", "100", ""),
        ("train.batch", "20", ""),
        ("train.batch_tokens", "2000", "task=translate"),
        ("train.bptt", "35", ""),
        ("train.k1", "10", ""),
        ("train.k2", "90", ""),
        ("train.window", "100", "task=tag data.input=numbers model.direction=forward"),
        ("train.vary_bptt", "true", ""),
        ("train.accumulate", "4", ""),
        ("train.precision", "bf16", ""),
        ("train.optimizer", "rmsprop", ""),
        ("train.learning_rate", "1e-3", ""),
        ("train.momentum", "0.5", "train.optimizer=momentum"),
        ("train.beta1", "0.8", ""),
        ("train.beta2", "0.99", ""),
        ("train.alpha", "0.9", "train.optimizer=rmsprop"),
        ("train.epsilon", "1e-6", ""),
        ("train.nonmono", "2", "train.optimizer=nt-asgd"),
        ("train.weight_decay", "0.01", ""),
        ("train.activation_penalty", "2", ""),
        ("train.temporal_penalty", "1", ""),
        ("train.label_smoothing", "0.1", ""),
        ("train.teacher_forcing", "0.5", "task=translate"),
        ("train.sampling", "linear", "task=translate"),
        ("train.sampling_steps", "500", "task=translate train.sampling=linear"),
        ("train.decode_sentences", "50", "task=translate"),
        ("train.bleu_tokens", "char", "task=translate"),
        ("train.loss", "mae", "task=forecast"),
        ("train.class_weights", "balanced", "task=classify"),
        ("train.metric", "accuracy", "task=classify"),
        ("train.schedule", "cosine", ""),
        ("train.decay", "0.1", "train.schedule=plateau"),
        ("train.decay_every", "100", "train.schedule=step"),
        ("train.decay_after", "4", "train.schedule=epoch"),
        ("train.patience", "1", "train.schedule=plateau"),
        ("train.min_learning_rate", "1e-5", "train.schedule=cosine"),
        ("train.warmup_steps", "10", ""),
        ("train.early_stop", "4", ""),
        ("train.average", "mean", ""),
        ("train.average_decay", "0.9", "train.average=exponential"),
        ("train.average_from", "50", "train.average=mean"),
        ("train.clip_norm", "0", ""),
        ("train.clip_each_norm", "1", ""),
        ("train.clip_value", "0.5", ""),
        ("train.validate_every", "500", ""),
        ("train.checkpoint_seconds", "5", ""),
        ("train.sample_length", "0", ""),
        ("train.log_every", "1", ""),
    ];
    assert_eq!(others.map(|(name, ..)| name).to_vec(), KEYS.iter().map(|key| key.name).collect::<Vec<_>>());
    for (name, value, needs) in others {
        let key = find(name).unwrap();
        let of = |task: &&Task| needs.split(' ').any(|need| need == format!("task={}", task.name()));
        let task = Task::ALL.iter().find(of).copied().unwrap_or(Task::Lm);
        let mut after = Recipe::default_for(task);
        let mut assignments: Vec<String> = needs.split_whitespace().map(str::to_owned).collect();
        assignments.push(format!("{name}={value}"));
        after.set_all(&assignments).unwrap();
        let mut before = after.clone();
        match (key.get)(&default()) {
            Some(value) => (key.set)(&mut before, &value).unwrap(),
            None => (key.unset)(&mut before),
        }
        assert_eq!(after == before, name == "task", "{name}");
        after.check().unwrap();
        assert_eq!(Recipe::from_toml(&after.to_toml(), "config.toml").unwrap(), after, "{name}");
    }
}

#[test]
fn what_a_task_has_no_use_for_is_refused() {
    let check = |text: &str, expected: &str| {
        let error = Recipe::from_toml(text, "a.toml").unwrap_err().to_string();
        assert_eq!(error, expected);
    };
    check(
        "task = 'classify'\n[train]\nmetric = 'span_f1'",
        "a.toml:3: train.metric = \"span_f1\" needs task = \"tag\"",
    );
    check(
        "task = 'translate'\n[data]\ntarget_tokens = 'bpe'\nvocab_size = 260",
        "a.toml:4: data.vocab_size is 260, expected more than the 256 bytes and 4 marks that data.tokens = \"bpe\" \
         begins with",
    );
    check(
        "task = 'translate'\n[data]\nmax_len = 10001",
        "a.toml:3: data.max_len is 10001, expected auto, a whole number from 3 to 10000, or a share above 0 and below 1",
    );
}

#[test]
fn a_file_says_what_differs_from_the_defaults() {
    let text =
        "task = 'lm'\nmodel.hidden = 200\n[data]\nsplit = [\n  1, # all\n  0, 0]\n[train]\nsteps = 9\n";
    let recipe = Recipe::from_toml(text, "a.toml").unwrap();
    let mut expected = default();
    expected.model.hidden = 200;
    expected.data.split = [1.0, 0.0, 0.0];
    expected.train.steps = Some(9);
    expected.train.epochs = None;
    assert_eq!(recipe, expected);
    assert_eq!(Recipe::from_toml("task = \"lm\"", "a.toml").unwrap(), default());
}

#[test]
fn a_wrong_file_is_refused_with_its_line() {
    let check = |text: &str, expected: &str| {
        let error = Recipe::from_toml(&format!("task = \"lm\"\n{text}\n"), "a.toml").unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check("[model]\n\nhiden = 3", "a.toml:4: model.hiden is not a known key; did you mean model.hidden?");
    check("hidden = 3", "a.toml:2: hidden is not a known key; did you mean model.hidden?");
    check("[train]\nhidden = 3", "a.toml:3: train.hidden is not a known key; did you mean model.hidden?");
    check("[modle]\nlayers = 3", "a.toml:3: modle.layers is not a known key; did you mean model.layers?");
    check(
        "[data]\nwhatever = 3",
        "a.toml:3: data.whatever is not a known key; \
         the known keys are data.split, data.documents, data.memory, data.input, data.path, data.text, data.label, data.group, data.file_group, data.id, data.step, \
         data.file_label, data.word_column, data.tag_column, data.sound, data.image_size, data.color, data.quoting, data.max_length, data.targets, data.features, data.time, data.gaps, \
         data.window, data.horizon, data.season, data.stride, data.scaling, data.format, data.source, \
         data.target, data.source_column, data.target_column, data.stress, data.unicode, data.lowercase, data.tokens, data.source_tokens, \
         data.target_tokens, data.split_punctuation, data.joint_vocab, data.max_len, data.too_long, data.reverse_source, \
         data.min_count, data.vocab_size, data.length, data.symbols, data.memorize",
    );
    check(
        "data = 3",
        "a.toml:2: data is not a known key; \
         the known keys are data.split, data.documents, data.memory, data.input, data.path, data.text, data.label, data.group, data.file_group, data.id, data.step, \
         data.file_label, data.word_column, data.tag_column, data.sound, data.image_size, data.color, data.quoting, data.max_length, data.targets, data.features, data.time, data.gaps, \
         data.window, data.horizon, data.season, data.stride, data.scaling, data.format, data.source, \
         data.target, data.source_column, data.target_column, data.stress, data.unicode, data.lowercase, data.tokens, data.source_tokens, \
         data.target_tokens, data.split_punctuation, data.joint_vocab, data.max_len, data.too_long, data.reverse_source, \
         data.min_count, data.vocab_size, data.length, data.symbols, data.memorize",
    );
    check("[seeds]", "a.toml:2: seeds is not a known key; did you mean seed?");
    check(
        "[data.split]",
        "a.toml:2: data.split is {}, expected three shares that add up to 1, the first above 0",
    );
    check("[model]\nhidden = -3", "a.toml:3: model.hidden is -3, expected a whole number from 1 to 65536");
    check("model.hidden = 1.5", "a.toml:2: model.hidden is 1.5, expected a whole number from 1 to 65536");
    check("train.batch = 0", "a.toml:2: train.batch is 0, expected a whole number from 1 to 65536");
    check("train.batch = '5'", "a.toml:2: train.batch is \"5\", expected a whole number from 1 to 65536");
    check(
        "train.learning_rate = nan",
        "a.toml:2: train.learning_rate is nan, expected a number above 0, up to 1000",
    );
    check(
        "model.cell = 'tree'",
        "a.toml:2: model.cell is \"tree\", expected one of rnn, lstm, gru, min-gru, min-lstm, none",
    );
    check(
        "data.split = [0.9, 0.2, 0]",
        "a.toml:2: data.split is [0.9, 0.2, 0], expected three shares that add up to 1, the first above 0",
    );
    check(
        "[model]\ncell = 'lstm'\nreset = 'before'",
        "a.toml:4: model.reset has no effect with model.cell = \"lstm\"; it is read with gru only",
    );
    check(
        "[model]\nchrono = 200\ncell = 'rnn'",
        "a.toml:3: model.chrono has no effect with model.cell = \"rnn\"; it is read with lstm or gru only",
    );
    check(
        "[model]\nrecurrent_gain = 2",
        "a.toml:3: model.recurrent_gain has no effect with model.recurrent_init = unset; it is read with \
         xavier-uniform or xavier-normal or he-uniform or he-normal or orthogonal or identity only",
    );
    check(
        "[model]\nchrono = 200\nforget_bias = 1",
        "a.toml:3: model.chrono and model.forget_bias are both set, expected one of them",
    );
    check(
        "model.recurrent_init = 'uniform'",
        "a.toml:2: model.recurrent_init is \"uniform\", expected one of pytorch, xavier-uniform, \
         xavier-normal, he-uniform, he-normal, orthogonal, identity",
    );
    check(
        "[train]\nepochs = 3\nsteps = 4",
        "a.toml:4: train.steps and train.epochs are both set, expected one of them",
    );
    check(
        "[train]\nclip_value = 1\nclip_norm = 1",
        "a.toml:4: train.clip_norm and train.clip_value are both set, expected one of them",
    );
    check(
        "[train]\nschedule = 'step'",
        "a.toml:3: train.schedule = \"step\" needs train.decay_every, the steps between two decays",
    );
    check(
        "[train]\nschedule = 'epoch'",
        "a.toml:3: train.schedule = \"epoch\" needs train.decay_after, the epochs before the first decay",
    );
    check(
        "[train]\nschedule = 'cosine'\nsteps = 100\nwarmup_steps = 100",
        "a.toml:5: train.warmup_steps is 100, expected less than train.steps, which is 100: \
         the cosine has no step left",
    );
    check(
        "[train]\nschedule = 'plateau'\nmin_learning_rate = 1",
        "a.toml:4: train.min_learning_rate is 1, expected at most train.learning_rate, which is 0.002",
    );
    check(
        "[train]\noptimizer = 'nt-asgd'\naverage = 'mean'",
        "a.toml:4: train.optimizer = \"nt-asgd\" averages weights by itself, expected train.average = \"none\"",
    );
    check(
        "[train]\ndecay_every = 5",
        "a.toml:3: train.decay_every has no effect with train.schedule = \"constant\"; it is read with step only",
    );
    check("[train]\nk2 = 20\nk1 = 30", "a.toml:4: train.k1 is 30, expected at most train.k2, which is 20");
    check("[train]\nk2 = 20", "a.toml:3: train.k1 is 50, expected at most train.k2, which is 20");
    check(
        "[train]\nvary_bptt = true\nk1 = 20",
        "a.toml:3: train.vary_bptt needs train.k1 and train.k2 to be equal, found 20 and 50",
    );
    check(
        "[train]\naccumulate = 2\nk1 = 20",
        "a.toml:3: train.accumulate above 1 needs train.k1 and train.k2 to be equal, found 20 and 50",
    );
    check(
        "[model]\ncell = 'gru'\npeephole = true",
        "a.toml:4: model.peephole has no effect with model.cell = \"gru\"; it is read with lstm only",
    );
    check(
        "[model]\ncell = 'rnn'\ngate_activation = 'hard-sigmoid'",
        "a.toml:4: model.gate_activation has no effect with model.cell = \"rnn\"; it is read with lstm or gru only",
    );
    check(
        "[model]\nnorm = 'layer'\n[train]\nprecision = 'bf16'",
        "a.toml:5: train.precision = \"bf16\" needs a cell without options: model.norm, model.peephole, \
         model.gate_activation, model.projection and model.activation (but relu of an rnn) multiply 32-bit floats",
    );
    check(
        "[model]\nnorm = 'batch'",
        "a.toml:3: model.norm = \"batch\" needs model.cell = \"none\"; \
         cells take \"batch-input\" or \"batch-recurrent\"",
    );
    check(
        "[model]\nnorm = 'batch-recurrent'\nnorm_steps = 0",
        "a.toml:4: model.norm_steps is 0, expected a whole number from 1 to 65536",
    );
    check(
        "[model]\nnorm = 'batch-input'\nnorm_steps = 20",
        "a.toml:4: model.norm_steps has no effect with model.norm = \"batch-input\"; \
         it is read with batch-recurrent only",
    );
    for given in [
        "peephole = true",
        "gate_activation = 'hard-sigmoid'",
        "recurrent_dropout = 0.1",
        "update_dropout = 0.1",
        "activation = 'silu'",
    ] {
        check(
            &format!("[model]\nnorm = 'batch-input'\n{given}"),
            "a.toml:4: model.norm = \"batch-input\" needs a cell without model.peephole, \
             model.gate_activation, model.recurrent_dropout, model.update_dropout, \
             train.precision = \"bf16\" and, of an lstm or gru, model.activation",
        );
    }
    check(
        "[model]\ncell = 'gru'\nzoneout_cell = 0.5",
        "a.toml:4: model.zoneout_cell has no effect with model.cell = \"gru\"; it is read with lstm only",
    );
    check(
        "[model]\nupdate_dropout = 0.1\ncell = 'rnn'",
        "a.toml:3: model.update_dropout has no effect with model.cell = \"rnn\"; it is read with lstm or gru only",
    );
    check(
        "[model]\nlayers = 1\ndropout = 0.5",
        "a.toml:4: model.dropout drops out between layers, but model.layers is 1; \
         model.input_dropout and model.output_dropout are those around them",
    );
    check(
        "[model]\nresidual = true\nlayers = 1",
        "a.toml:3: model.residual adds a layer's input to its output from the second layer on, \
         but model.layers is 1",
    );
    check(
        "[model]\nlocked_dropout = true",
        "a.toml:3: model.locked_dropout needs model.dropout, model.input_dropout or model.output_dropout \
         above 0",
    );
    check(
        "[model]\nhidden = 200\ntie_embeddings = true",
        "a.toml:4: model.tie_embeddings needs model.embedding and model.hidden to be equal, found 128 and 200",
    );
    for cell in ["rnn", "gru", "min-lstm"] {
        check(
            &format!("[model]\ncell = '{cell}'\nprojection = 3"),
            &format!(
                "a.toml:4: model.projection has no effect with model.cell = \"{cell}\"; it is read with lstm only"
            ),
        );
        check(
            &format!("[model]\ncell = '{cell}'\npeephole = true"),
            &format!(
                "a.toml:4: model.peephole has no effect with model.cell = \"{cell}\"; it is read with lstm only"
            ),
        );
    }
    for values in [128, 129, 4000] {
        check(
            &format!("[model]\nprojection = {values}"),
            &format!("a.toml:3: model.projection is {values}, expected less than model.hidden, which is 128"),
        );
    }
    check("model.projection = 0", "a.toml:2: model.projection is 0, expected a whole number from 1 to 65536");
    check(
        "[model]\ntie_embeddings = true\nprojection = 64",
        "a.toml:3: model.tie_embeddings needs model.embedding and model.projection to be equal, found 128 and 64",
    );
    check(
        "[model]\nlearned_state = true\ncell = 'none'",
        "a.toml:3: model.learned_state has no effect with model.cell = \"none\"; it is read with rnn or lstm or \
         gru or min-gru or min-lstm only",
    );
    check("model.dropout = 1", "a.toml:2: model.dropout is 1, expected a number from 0 and below 1");
    check(
        "[data]\ntokens = 'bpe'\nvocab_size = 200",
        "a.toml:4: data.vocab_size is 200, expected more than the 256 bytes that data.tokens = \"bpe\" begins with",
    );
    check("seed = 1\nseed = 2", "a.toml:3: duplicate key");
    let check = |text: &str, expected: &str| {
        assert_eq!(Recipe::from_toml(text, "a.toml").unwrap_err().to_string(), expected);
    };
    check(
        "[model]\nhidden = 3",
        "a.toml: task is missing, expected one of lm, adding, copy, classify, tag, caption, translate, forecast",
    );
    check(
        "task = 'lms'",
        "a.toml:1: task is \"lms\", expected one of lm, adding, copy, classify, tag, caption, translate, forecast",
    );
    check(
        "task = 'adding'\ntrain.epochs = 3",
        "a.toml:2: train.epochs has no effect with task = \"adding\"; it is read with lm or classify or tag or caption or translate or forecast only",
    );
    check(
        "task = 'translate'\n[model]\nnorm = 'batch-input'",
        "a.toml:3: model.norm = \"batch-input\" needs task = \"lm\", \"classify\", \"tag\" or \"forecast\", \
         found \"translate\"",
    );
    check(
        "task = 'classify'\n[model]\ncell = 'none'\nnorm = 'batch-recurrent'",
        "a.toml:4: model.norm = \"batch-recurrent\" needs a recurrence; \
         with model.cell = \"none\" take \"batch\"",
    );
    check(
        "task = 'classify'\n[model]\ndirection = 'reverse'\nmerge = 'sum'",
        "a.toml:4: model.merge has no effect with model.direction = \"reverse\"; it is read with both only",
    );
    check(
        "task = 'lm'\nmodel.merge = 'sum'",
        "a.toml:2: model.merge has no effect with task = \"lm\"; it is read with classify or tag or translate or \
         forecast only",
    );
    check(
        "task = 'tag'\n[model]\nmerge = 'sum'\ncell = 'none'",
        "a.toml:3: model.merge needs a model.cell other than \"none\"",
    );
    check(
        "task = 'translate'\n[model]\nmerge = 'concat'\nattention = 'dot'",
        "a.toml:3: model.attention = \"dot\" multiplies states with hidden values of the same width, expected \
         model.merge = \"sum\" or none",
    );
    check(
        "task = 'classify'\ndata.input = 'audio'\nmodel.embedding_dropout = 0.1",
        "a.toml:3: model.embedding_dropout has no effect with data.input = \"audio\"; it is read with text only",
    );
    check(
        "task = 'forecast'\n[model]\ncell = 'none'\nzoneout = 0.1",
        "a.toml:4: model.zoneout has no effect with model.cell = \"none\"; it is read with rnn or lstm or gru or \
         min-gru or min-lstm only",
    );
    check(
        "task = 'adding'\n[model]\nweight_dropout = 0.1",
        "a.toml:3: model.weight_dropout has no effect with task = \"adding\"; it is read with lm or classify or \
         tag or caption or translate or forecast only",
    );
    check(
        "task = 'tag'\n[model]\ncrf = true\n[train]\nlabel_smoothing = 0.1",
        "a.toml:5: train.label_smoothing has no effect with model.crf = true; it is read with false only",
    );
    for (key, value) in [("text", "'review'"), ("quoting", "false"), ("tokens", "'word'"), ("min_count", "2")]
    {
        check(
            &format!("task = 'classify'\n[data]\ninput = 'numbers'\n{key} = {value}"),
            &format!(
                "a.toml:4: data.{key} has no effect with data.input = \"numbers\"; it is read with text only"
            ),
        );
    }
    check(
        "task = 'classify'\ndata.input = 'audio'\ndata.label = 'class'",
        "a.toml:3: data.label has no effect with data.input = \"audio\"; it is read with text or numbers only",
    );
    check(
        "task = 'classify'\ndata.input = 'audio'\nmodel.embedding = 8",
        "a.toml:3: model.embedding has no effect with data.input = \"audio\"; it is read with text or images only",
    );
    check(
        "task = 'tag'\ndata.group = 'author'",
        "a.toml:2: data.group has no effect on words, whose columns have no names; data.file_group keeps those of a \
         file together",
    );
    check(
        "task = 'classify'\ndata.input = 'audio'\ndata.group = 'author'",
        "a.toml:3: data.group has no effect with data.input = \"audio\"; it is read with text or numbers only",
    );
    check(
        "task = 'translate'\ndata.format = 'files'\ndata.source_column = 'en'",
        "a.toml:3: data.source_column has no effect with data.format = \"files\"; it is read with auto or table only",
    );
    check(
        "task = 'translate'\ndata.format = 'table'\ndata.source = 2",
        "a.toml:3: data.source has no effect with data.format = \"table\"; it is read with auto or columns or files or \
         dictionary only",
    );
    check(
        "task = 'translate'\ndata.file_group = '(.)'",
        "a.toml:2: data.file_group has no effect with task = \"translate\"; it is read with classify or tag or \
         caption only",
    );
    check(
        "task = 'tag'\ndata.input = 'numbers'\ndata.group = 'author'\ndata.file_group = '(.)'",
        "a.toml:3: data.group and data.file_group are both set, expected one of them",
    );
    check(
        "task = 'forecast'\nmodel.quantiles = [0.1, 0.9]",
        "a.toml:2: model.quantiles is [0.1, 0.9], expected ascending numbers above 0 and below 1 with 0.5 among them",
    );
    check(
        "task = 'forecast'\nmodel.quantiles = [0.5]\ntrain.loss = 'mae'",
        "a.toml:3: train.loss has no effect with model.quantiles = [0.5]; it is read with unset only",
    );
    check(
        "task = 'forecast'\nmodel.base = 'season'",
        "a.toml:2: model.base = \"season\" needs data.season above 1",
    );
    check(
        "task = 'adding'\ndata.symbols = 3",
        "a.toml:2: data.symbols has no effect with task = \"adding\"; it is read with copy only",
    );
    check(
        "task = 'copy'\n[train]\nschedule = 'epoch'\ndecay_after = 1",
        "a.toml:3: train.schedule = \"epoch\" needs a task with epochs, found task = \"copy\"",
    );
}

#[test]
fn overrides_count_together() {
    let check = |assignments: &[&str], expected: Result<&str, &str>| {
        let mut recipe = default();
        let outcome = recipe.set_all(assignments).map_err(|error| error.to_string());
        match expected {
            Ok(line) => {
                outcome.unwrap();
                assert!(recipe.to_toml().lines().any(|found| found == line), "{}", recipe.to_toml());
            }
            Err(message) => {
                assert_eq!(outcome.unwrap_err(), message);
                assert_eq!(recipe, default(), "a refused override must change nothing");
            }
        }
    };
    check(&["model.reset=before", "model.cell=gru"], Ok("reset = \"before\""));
    check(&["model.hidden=5", "model.hidden=6"], Ok("hidden = 6"));
    check(&[" data.tokens = \"word\" "], Ok("tokens = \"word\""));
    check(&["train.steps=5"], Ok("steps = 5"));
    check(
        &["train.steps=5", "train.epochs=1"],
        Err("--set train.steps=5: train.steps and train.epochs are both set, expected one of them"),
    );
    check(
        &["model.layers=1", "model.reset=before"],
        Err("--set model.reset=before: model.reset has no effect with model.cell = \"lstm\"; \
             it is read with gru only"),
    );
    check(
        &["model.hiden=3"],
        Err("--set model.hiden=3: model.hiden is not a known key; did you mean model.hidden?"),
    );
    check(
        &["model.hidden="],
        Err("--set model.hidden=: model.hidden is \"\", expected a whole number from 1 to 65536"),
    );
    check(
        &["train.steps=10000000000"],
        Err("--set train.steps=10000000000: train.steps is 10000000000, \
             expected a whole number from 1 to 4294967295"),
    );
    check(&["model.dropout=.5", "model.layers=2"], Ok("dropout = 0.5"));
    check(&["train.clip_norm=2."], Ok("clip_norm = 2.0"));
    check(&["model.hidden"], Err("--set model.hidden: expected key=value, such as model.hidden=200"));
}

#[test]
fn an_override_may_take_the_effect_from_a_key_of_the_file() {
    let mut recipe = Recipe::from_toml("task = 'lm'\nmodel.forget_bias = 2\ntrain.epochs = 3", "a").unwrap();
    recipe.set_all(&["model.cell=gru", "train.steps=10"]).unwrap();
    let written = recipe.to_toml();
    assert!(!written.contains("forget_bias") && !written.contains("epochs"), "{written}");
    Recipe::from_toml(&written, "config.toml").unwrap();
}

#[test]
fn a_recipe_made_in_code_is_checked() {
    let check = |change: fn(&mut Recipe), expected: &str| {
        let mut recipe = default();
        change(&mut recipe);
        let message = recipe.check().err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(message, expected);
    };
    check(|_| {}, "");
    check(|r| r.train.batch = 0, "recipe: train.batch is 0, expected a whole number from 1 to 65536");
    check(
        |r| r.train.learning_rate = f64::INFINITY,
        "recipe: train.learning_rate is inf, expected a number above 0, up to 1000",
    );
    check(
        |r| r.seed = u64::MAX,
        "recipe: seed is \"18446744073709551615\", expected a whole number from 0 to 9223372036854775807",
    );
    check(
        |r| r.train.steps = Some(1),
        "recipe: train.steps and train.epochs are both set, expected one of them",
    );
    check(
        |r| r.train.epochs = None,
        "recipe: neither train.steps nor train.epochs is set, expected one of them",
    );
}

#[test]
fn initial_weights_follow_their_keys() {
    let check = |assignments: &[&str], expected: Init| {
        let mut recipe = default();
        recipe.set_all(assignments).unwrap();
        assert_eq!(recipe.model.init(), expected, "{assignments:?}");
    };
    check(&[], Init::default());
    check(
        &["model.init=he-normal", "model.init_fan=out", "model.init_gain=3", "model.forget_bias=0"],
        Init {
            gates: GateBias::Forget(0.0),
            ..Init::both(WeightInit::HeNormal { fan: Fan::Out, gain: Some(3.0) })
        },
    );
    check(&["model.init=uniform", "model.init_range=0.05"], Init::both(WeightInit::Uniform { range: 0.05 }));
    check(
        &["model.init=xavier-uniform", "model.recurrent_init=identity", "model.recurrent_gain=0.9"],
        Init {
            input: WeightInit::XavierUniform { gain: None },
            recurrent: WeightInit::Identity { scale: Some(0.9) },
            ..Init::default()
        },
    );
    check(&["model.chrono=200"], Init { gates: GateBias::Chrono { longest: 200 }, ..Init::default() });
}

#[test]
fn the_recurrence_carries_its_variant() {
    let check = |assignments: &[&str], expected: Cell| {
        let mut recipe = default();
        recipe.set_all(assignments).unwrap();
        assert_eq!(recipe.model.recurrence(), expected);
    };
    check(&[], Cell::Lstm);
    check(&["model.cell=rnn", "model.activation=relu"], Cell::Rnn(Activation::Relu));
    check(&["model.cell=gru", "model.reset=before"], Cell::Gru(Reset::Before));
    // Of gated cells it is an option.
    check(&["model.cell=gru", "model.activation=silu"], Cell::Gru(Reset::After));
    let options = |assignments: &[&str]| {
        let mut recipe = default();
        recipe.set_all(assignments).unwrap();
        recipe.model.options().activation
    };
    assert_eq!(options(&["model.activation=silu"]), Activation::Silu);
    assert_eq!(options(&["model.cell=gru", "model.activation=elu"]), Activation::Elu);
    assert_eq!(options(&["model.cell=rnn", "model.activation=relu"]), Activation::Tanh);
    let refused = |assignments: &[&str]| default().set_all(assignments).unwrap_err().to_string();
    let message = refused(&["model.activation=silu", "model.norm=batch-input"]);
    assert!(message.contains("of an lstm or gru, model.activation"), "{message}");
    let message = refused(&["model.cell=min-gru", "model.activation=relu"]);
    assert!(message.contains("model.activation has no effect with model.cell = \"min-gru\""), "{message}");
    let message = refused(&["model.activation=relu", "train.precision=bf16"]);
    assert!(message.contains("relu of an rnn"), "{message}");
}
