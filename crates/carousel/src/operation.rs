//! Operations of one's own in Burn's graph: computed on plain numbers, with a backward pass of their own.
//!
//! An operation adds what it reads to [`Operands`], computes its values, and [finishes](Operands::finish) with them and
//! with what its backward pass needs.

use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, NoCheckpointing};
use burn::backend::autodiff::ops::{Backward, NodeGuard, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, GradientCheckpointingStrategy};
use burn::tensor::Tensor;

use crate::slices::{flex, on_strategy};

/// A tensor on Burn's autodiff layer over the CPU.
pub(crate) type Tracked = FloatTensor<Autodiff<Flex>>;

/// A tensor of CPU memory on Burn's autodiff layer, as operations take it.
fn into_tracked<const D: usize>(tensor: Tensor<D>) -> Tracked {
    let tensor = tensor.autodiff();
    let tracked = match tensor.gradient_checkpointing_strategy() {
        Some(GradientCheckpointingStrategy::Balanced) => {
            tensor.try_into_primitive::<Autodiff<Flex, BalancedCheckpointing>>()
        }
        _ => tensor.try_into_primitive::<Autodiff<Flex, NoCheckpointing>>(),
    };
    tracked.expect("callers check that the tensor lies in CPU memory")
}

/// What an operation gives, as a tensor again.
pub(crate) fn from_tracked<const D: usize>(
    tensor: Tracked,
    strategy: GradientCheckpointingStrategy,
) -> Tensor<D> {
    match strategy {
        GradientCheckpointingStrategy::Balanced => {
            Tensor::from_primitive::<Autodiff<Flex, BalancedCheckpointing>>(tensor)
        }
        GradientCheckpointingStrategy::Disabled => {
            Tensor::from_primitive::<Autodiff<Flex, NoCheckpointing>>(tensor)
        }
    }
}

/// A tensor that takes part in no graph.
fn constant(values: FlexTensor) -> Tracked {
    into_tracked(Tensor::<1>::from_primitive::<Flex>(values).autodiff())
}

/// Registers an operation with Burn. Its work is heavy, so Burn is never to repeat it.
pub(crate) fn record<BO, S, const N: usize>(
    backward: BO,
    parents: [NodeGuard; N],
    state: S,
    output: FlexTensor,
) -> Tracked
where
    BO: Backward<Flex, N, State = S>,
    S: Clone + Send + std::fmt::Debug + 'static,
{
    match backward.prepare::<NoCheckpointing>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    }
}

/// Gathers what an operation reads and whether a gradient is wanted of any of it.
#[derive(Default)]
pub(crate) struct Operands {
    /// That of the first operand on the autodiff layer; `None` where none is.
    pub(crate) strategy: Option<GradientCheckpointingStrategy>,
    tracked: bool,
}

impl Operands {
    /// Adds a tensor of CPU memory.
    pub(crate) fn add<const D: usize>(&mut self, tensor: Tensor<D>) -> Tracked {
        self.strategy = self.strategy.or(tensor.gradient_checkpointing_strategy());
        self.tracked |= tensor.is_tracked();
        into_tracked(tensor)
    }

    /// Adds a tensor of CPU memory, or one without elements in its place.
    pub(crate) fn add_optional<const D: usize>(&mut self, tensor: Option<Tensor<D>>) -> Tracked {
        match tensor {
            Some(tensor) => self.add(tensor),
            None => constant(flex(Vec::new(), [0])),
        }
    }

    /// The strategy of the graph that the operation takes part in; `None` where no gradient is wanted.
    pub(crate) fn graph(&self) -> Option<GradientCheckpointingStrategy> {
        self.strategy.filter(|_| self.tracked)
    }

    /// What was computed of the operands, as a tensor of their device; in their graph where a gradient is wanted of any.
    /// `state` is what `backward` needs.
    pub(crate) fn finish<BO, S, const N: usize, const D: usize>(
        self,
        parents: [Tracked; N],
        backward: BO,
        state: impl FnOnce() -> S,
        values: FlexTensor,
    ) -> Tensor<D>
    where
        BO: Backward<Flex, N, State = S>,
        S: Clone + Send + std::fmt::Debug + 'static,
    {
        let Some(strategy) = self.graph() else {
            return on_strategy(Tensor::from_primitive::<Flex>(values), self.strategy);
        };
        let nodes = parents.each_ref().map(Tracked::node);
        from_tracked(record(backward, nodes, state(), values), strategy)
    }
}
