//! Many to many, not aligned: a net that says a word's letters backwards, with two for some.
use burn::tensor::Device;
use carousel::cell::Cell;
use carousel::data::{Limits, NormalForm, Side, Splitting, Tokens, Uniform};
use carousel::decode::beam::{Search, search};
use carousel::models::translator::{Sentences, TranslatorConfig};
use carousel::parameters::NamedParameters;
use carousel::recipe::{Recipe, Task};
use carousel::train::Optimizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words = ["net", "gate", "time", "state", "tie", "tan", "mean", "game"];
    let wanted = words.map(|word| word.chars().rev().collect::<String>().replace(['a', 'e'], "ee"));
    let letters = Splitting { tokens: Tokens::Char, punctuation: false };
    let uniform = Uniform { form: NormalForm::Nfc, lowercase: true };
    let side = Side::learn(words, uniform, letters, Limits { min_count: 1, size: None, share: 1.0 })?;
    let (sources, targets) =
        (words.map(|word| side.encode(word)), wanted.each_ref().map(|word| side.encode(word)));
    let read = sources.each_ref().map(Vec::as_slice);
    let inputs = Sentences::pack(&targets.each_ref().map(|ids| &ids[..ids.len() - 1])); // <sos> and letters
    let outputs = Sentences::pack(&targets.each_ref().map(|ids| &ids[1..])).ids; // letters and <eos>
    let config = TranslatorConfig::new(Cell::Lstm, [side.len(), side.len()], 12, 24);
    let mut model = config.init(&Device::default().autodiff())?;
    let mut adam = Optimizer::new(&Recipe::default_for(Task::Translate).train, &model);
    for _ in 0..120 {
        let loss = model.loss(&Sentences::pack(&read), &inputs.ids, &outputs, &inputs.batch, None);
        let gradients = model.take_gradients(&mut loss.backward());
        adam.update(&mut model, &gradients, 0.02);
    }
    for (found, wanted) in search(&model, &read, &[], &Search::default()).iter().zip(wanted) {
        assert_eq!(side.decode(&found[0].tokens, |_| String::new()), wanted);
    }
    Ok(())
}

#[test]
fn it_learns() {
    main().expect("it runs");
}
