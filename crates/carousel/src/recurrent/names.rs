//! The names of a stack's parameters.

use super::Recurrent;
use crate::parameters::{Buffer, NamedParameters, Parameter, ParameterMut, prefixed};

impl Recurrent {
    /// PyTorch's ending of the names of each entry: `_l0`, `_l0_reverse`, `_l1`, …
    fn endings(&self) -> Vec<String> {
        // PyTorch knows no stack that only walks backward; its single direction bears the plain name there.
        let ending = |entry: usize| {
            let reverse = if entry % self.directions() == 1 { "_reverse" } else { "" };
            format!("_l{}{reverse}", entry / self.directions())
        };
        (0..self.entries()).map(ending).collect()
    }
}

/// Under PyTorch's names: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, `weight_ih_l0_reverse`, …; those
/// of the cell's options follow as `norm_l0`, `peephole_l0` and PyTorch's `weight_hr_l0`. Those of an own cell are what
/// it calls them, with the same endings. What sequences begin from stands at the end: `h0_l0`, `c0_l0`, …. Running
/// statistics are buffers: `norm_ih_l0.running_mean`, ….
impl NamedParameters for Recurrent {
    fn parameters(&self) -> Vec<(String, Parameter<'_>)> {
        let endings = self.endings();
        let fused = endings.iter().zip(&self.weights).flat_map(|(ending, weights)| {
            let option = |name: &str, own| Some((format!("{name}{ending}"), Parameter::Matrix(own)));
            [
                Some((format!("weight_ih{ending}"), Parameter::Matrix(&weights.weight_ih))),
                Some((format!("weight_hh{ending}"), Parameter::Matrix(&weights.weight_hh))),
                Some((format!("bias_ih{ending}"), Parameter::Vector(&weights.bias_ih))),
                Some((format!("bias_hh{ending}"), Parameter::Vector(&weights.bias_hh))),
                weights.norm.as_ref().and_then(|own| option("norm", own)),
                weights.peephole.as_ref().and_then(|own| option("peephole", own)),
                weights.weight_hr.as_ref().and_then(|own| option("weight_hr", own)),
            ]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
        });
        let own = endings.iter().zip(&self.own).flat_map(|(ending, weights)| {
            weights.named().map(move |(name, value)| (format!("{name}{ending}"), Parameter::Matrix(value)))
        });
        let begin = endings.iter().zip(&self.begin).flat_map(|(ending, begin)| {
            let all = std::iter::once(("h0", &begin.h)).chain(begin.c.iter().map(|c| ("c0", c)));
            all.map(move |(name, value)| (format!("{name}{ending}"), Parameter::Matrix(value)))
        });
        fused.chain(own).chain(begin).collect()
    }

    fn parameters_mut(&mut self) -> Vec<(String, ParameterMut<'_>)> {
        let endings = self.endings();
        let fused = endings.iter().zip(&mut self.weights).flat_map(|(ending, weights)| {
            let option = |name: &str, own| Some((format!("{name}{ending}"), ParameterMut::Matrix(own)));
            [
                Some((format!("weight_ih{ending}"), ParameterMut::Matrix(&mut weights.weight_ih))),
                Some((format!("weight_hh{ending}"), ParameterMut::Matrix(&mut weights.weight_hh))),
                Some((format!("bias_ih{ending}"), ParameterMut::Vector(&mut weights.bias_ih))),
                Some((format!("bias_hh{ending}"), ParameterMut::Vector(&mut weights.bias_hh))),
                weights.norm.as_mut().and_then(|own| option("norm", own)),
                weights.peephole.as_mut().and_then(|own| option("peephole", own)),
                weights.weight_hr.as_mut().and_then(|own| option("weight_hr", own)),
            ]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
        });
        let own = endings.iter().zip(&mut self.own).flat_map(|(ending, weights)| {
            weights
                .named_mut()
                .map(move |(name, value)| (format!("{name}{ending}"), ParameterMut::Matrix(value)))
        });
        let begin = endings.iter().zip(&mut self.begin).flat_map(|(ending, begin)| {
            let all = std::iter::once(("h0", &mut begin.h)).chain(begin.c.iter_mut().map(|c| ("c0", c)));
            all.map(move |(name, value)| (format!("{name}{ending}"), ParameterMut::Matrix(value)))
        });
        fused.chain(own).chain(begin).collect()
    }

    fn buffers(&self) -> Vec<(String, &Buffer)> {
        let layers = self.endings().into_iter().zip(&self.own);
        let own = layers.flat_map(|(ending, weights)| {
            weights.statistics().iter().map(move |(name, running)| (format!("{name}{ending}"), running))
        });
        own.flat_map(|(name, running)| prefixed(&name, running.buffers())).collect()
    }
}
