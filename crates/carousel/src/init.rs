//! Initial weights, from a random number generator of their own: the same seed gives the same bits, whatever
//! else draws random numbers.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How the weights of a recurrent stack are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Init {
    /// All weights and biases uniform in `±1/√H`, as PyTorch does.
    #[default]
    Uniform,
    /// Input weights uniform in `±√(6/(I + H))` (Glorot and Bengio 2010), the recurrent weights of each gate an
    /// orthogonal matrix (Saxe et al. 2014), biases zero.
    XavierOrthogonal,
}

/// Draws initial values from a seed.
#[derive(Clone, Debug)]
pub struct Initializer {
    random: ChaCha8Rng,
}

impl Initializer {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Initializer {
        Initializer { random: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// `[0, 1)`, in steps of 2⁻⁵³.
    fn unit(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 * (-53f64).exp2()
    }

    /// `count` values uniform in `[-bound, bound)`.
    pub fn uniform(&mut self, count: usize, bound: f64) -> Vec<f32> {
        (0..count).map(|_| ((2.0 * self.unit() - 1.0) * bound) as f32).collect()
    }

    /// `count` values of the standard normal distribution (Box and Muller 1958).
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.gauss() as f32).collect()
    }

    fn gauss(&mut self) -> f64 {
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// An orthogonal `[size, size]` matrix, every rotation equally likely.
    pub fn orthogonal(&mut self, size: usize) -> Vec<f32> {
        let mut rows: Vec<Vec<f64>> = Vec::with_capacity(size);
        while rows.len() < size {
            let mut row: Vec<f64> = (0..size).map(|_| self.gauss()).collect();
            // Gram-Schmidt; the second round removes what rounding left of the first.
            for _ in 0..2 {
                for other in &rows {
                    let along = dot(&row, other);
                    row.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
                }
            }
            let length = dot(&row, &row).sqrt();
            // A row that nearly lay in the space of the others has no direction left; draw another.
            if length > 1e-6 {
                row.iter_mut().for_each(|value| *value /= length);
                rows.push(row);
            }
        }
        rows.into_iter().flatten().map(|value| value as f32).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_decides_the_values() {
        let draw = |seed| Initializer::new(seed).uniform(8, 0.5);
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        assert!(draw(3).iter().all(|value| value.abs() <= 0.5));
    }

    #[test]
    fn normal_values_have_mean_zero_and_variance_one() {
        let values = Initializer::new(1).normal(20_000);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 20_000.0;
        let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / 20_000.0;
        // Five standard errors: 5/√20000 and 5·√(2/20000).
        assert!(mean.abs() < 0.036, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.05, "variance {variance}");
    }

    #[test]
    fn orthogonal_rows_are_of_length_one_and_perpendicular() {
        let size = 33;
        let matrix = Initializer::new(5).orthogonal(size);
        for i in 0..size {
            for j in 0..size {
                let product: f32 = (0..size).map(|k| matrix[i * size + k] * matrix[j * size + k]).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-6, "rows {i} and {j}: {product}");
            }
        }
    }
}
