//! How far forecasts are off.

use serde::{Deserialize, Serialize};

/// Errors of forecasts, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorSums {
    count: usize,
    absolute: f64,
    squared: f64,
    symmetric: f64,
    scaled: f64,
    scaled_count: usize,
}

/// Means of errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ForecastErrors {
    /// Mean absolute error, in the units of the data.
    pub mae: f64,
    /// Root of the mean squared error, in the units of the data.
    pub rmse: f64,
    /// Mean of `2 |y - f| / (|y| + |f|)` (Makridakis 1993), from 0 to 2; 0 where both are 0.
    pub smape: f64,
    /// Mean absolute error over that of the (seasonal) naive forecast one season ahead in the training part (Hyndman
    /// and Koehler 2006): below 1 is better than that. `None` where that one is never wrong.
    pub mase: Option<f64>,
}

impl ErrorSums {
    /// Takes in a forecast of a value. `naive` is the divisor of its scaled error; 0: it has none.
    pub fn add(&mut self, wanted: f64, found: f64, naive: f64) {
        let error = (wanted - found).abs();
        let size = wanted.abs() + found.abs();
        self.count += 1;
        self.absolute += error;
        self.squared += error * error;
        self.symmetric += if size > 0.0 { 2.0 * error / size } else { 0.0 };
        if naive > 0.0 {
            self.scaled += error / naive;
            self.scaled_count += 1;
        }
    }

    /// Their means.
    #[must_use]
    pub fn means(&self) -> ForecastErrors {
        let count = self.count.max(1) as f64;
        ForecastErrors {
            mae: self.absolute / count,
            rmse: (self.squared / count).sqrt(),
            smape: self.symmetric / count,
            mase: (self.scaled_count > 0).then(|| self.scaled / self.scaled_count as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_means() {
        let mut sums = ErrorSums::default();
        sums.add(10.0, 12.0, 4.0);
        sums.add(-3.0, 1.0, 0.0);
        sums.add(0.0, 0.0, 1.0);
        let ForecastErrors { mae, rmse, smape, mase } = sums.means();
        assert!((mae - 2.0).abs() < 1e-12);
        assert!((rmse - (20.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((smape - (4.0 / 22.0 + 2.0) / 3.0).abs() < 1e-12);
        // 2 / 4 and 0 / 1; the value whose naive forecast is never wrong has no scaled error.
        assert_eq!(mase, Some(0.25));
        assert_eq!(ErrorSums::default().means().mase, None);
    }
}
