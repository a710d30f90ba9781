//! A table of vectors, one for each token.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use carousel_kernels::dropout::Mask;

use crate::config_error::ConfigError;
use crate::fused;
use crate::init::Initializer;
use crate::parameters::{parameter, parts};
use crate::path::Path;
use crate::regularize::{Sharing, masked};
use crate::state::index_tensor;

/// Looks tokens up in a table `[V, E]`.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[V, E]`.
    pub weight: Param<Tensor<2>>,
    #[module(skip)]
    path: Path,
}

impl Embedding {
    /// A table drawn from the standard normal distribution, as PyTorch's is.
    ///
    /// # Errors
    /// [`ConfigError::Zero`] when a size is zero.
    pub fn init(
        vocabulary: usize,
        width: usize,
        random: &mut Initializer,
        device: &Device,
    ) -> Result<Embedding, ConfigError> {
        for (what, size) in [("vocabulary", vocabulary), ("embedding", width)] {
            if size == 0 {
                return Err(ConfigError::Zero { what });
            }
        }
        let weight = parameter(random.normal(vocabulary * width), [vocabulary, width], device);
        Ok(Embedding { weight, path: Path::Auto })
    }

    /// The rows of the tokens `ids`: `[ids, E]`.
    ///
    /// # Panics
    /// When an id is not below `V`.
    #[must_use]
    pub fn forward(&self, ids: &[u32]) -> Tensor<2> {
        let table = self.weight.val();
        let vocabulary = table.dims()[0];
        if let Some((place, id)) = ids.iter().enumerate().find(|&(_, &id)| id as usize >= vocabulary) {
            panic!("token {place} is {id}, expected less than the vocabulary's {vocabulary}");
        }
        if self.path.is_fused(&table, &table) {
            return fused::embedding(table, ids);
        }
        let device = table.device();
        table.select(0, index_tensor(ids.iter().map(|&id| i64::from(id)).collect(), &device))
    }

    /// The rows of the tokens that occur in `ids`, each once, and for each id the place of its row among them.
    ///
    /// # Panics
    /// When an id is not below `V`.
    #[must_use]
    pub fn distinct(&self, ids: &[u32]) -> (Tensor<2>, Vec<u32>) {
        let vocabulary = self.weight.dims()[0];
        let mut places = vec![u32::MAX; vocabulary];
        let mut distinct = Vec::new();
        let index = ids
            .iter()
            .enumerate()
            .map(|(place, &id)| match places.get_mut(id as usize) {
                Some(row) => {
                    if *row == u32::MAX {
                        *row = distinct.len() as u32;
                        distinct.push(id);
                    }
                    *row
                }
                None => panic!("token {place} is {id}, expected less than the vocabulary's {vocabulary}"),
            })
            .collect();
        (self.forward(&distinct), index)
    }

    /// The same while a model learns: with a mask whole rows drop out, wherever their token stands.
    pub(crate) fn distinct_noisy(&self, ids: &[u32], mask: Option<Mask>) -> (Tensor<2>, Vec<u32>) {
        let (rows, index) = self.distinct(ids);
        if mask.is_none() {
            return (rows, index);
        }
        let mut tokens = vec![0; rows.dims()[0]];
        index.iter().zip(ids).for_each(|(&row, &id)| tokens[row as usize] = id);
        (masked(rows, mask, Sharing::Whole(tokens)), index)
    }

    /// Chooses the implementation.
    #[must_use]
    pub fn with_path(mut self, path: Path) -> Embedding {
        self.path = path;
        self
    }
}

parts! { Embedding { "weight": weight } }
