//! Forecasting: a net reads a window of two waves laid over each other and says their next steps.
use burn::tensor::Device;
use carousel::cell::Cell;
use carousel::data::{Base, Framing, Series, SeriesNames, SeriesScaling, SeriesSet, Spreads};
use carousel::models::forecaster::{Criterion, ForecasterConfig};
use carousel::models::reader::RecurrenceConfig;
use carousel::parameters::NamedParameters;
use carousel::recipe::{Recipe, Task};
use carousel::slices::with_slice;
use carousel::train::Optimizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let values: Vec<f64> = (0..240).map(f64::from).map(|t| (t / 3.0).sin() + (t / 7.0).cos()).collect();
    let names = SeriesNames { targets: vec!["waves".to_owned()], ..SeriesNames::default() };
    let set = SeriesSet { names, series: vec![Series { length: 240, values, ..Series::default() }] };
    let (scaling, base, spreads) =
        (SeriesScaling::Series, Base::Last, Spreads::fit(&set, std::slice::from_ref(&(0..200)), 1));
    let framing = Framing { window: 24, horizon: 6, season: 1, scaling, base, spreads };
    let [train, test] = [0..200, 200..240].map(|steps| framing.origins(0, steps, 1));
    let read = |part: &[_]| (framing.inputs(&set, part), framing.wanted(&set, part), part.len());

    let config = ForecasterConfig::new(24, 1, 6, RecurrenceConfig::new(Cell::Lstm, 16));
    let mut model = config.init(&Device::default().autodiff())?;
    let mut adam = Optimizer::new(&Recipe::default_for(Task::Forecast).train, &model);
    let (windows, next, count) = read(&train);
    for _ in 0..150 {
        let loss = model.loss(&windows, &next, count, &Criterion::Squared, None);
        let gradients = model.take_gradients(&mut loss.backward());
        adam.update(&mut model, &gradients, 0.02);
    }
    let (windows, next, count) = read(&test);
    let loss = with_slice(&model.loss(&windows, &next, count, &Criterion::Squared, None), |loss| loss[0]);
    assert!(loss < 0.05, "it goes on with the waves");
    Ok(())
}

#[test]
fn it_learns() {
    main().expect("it runs");
}
