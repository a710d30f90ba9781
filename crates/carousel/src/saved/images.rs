//! How the models of a run read images.

use crate::data::ImageShape;
use crate::models::convolution::ConvolutionConfig;
use crate::recipe::Recipe;

/// A shade that is neither dark nor light; what images are scaled around.
pub(super) const GREY: u8 = 128;

/// Pixels as a model reads them, about -2 to 2.
pub(super) fn scaled_pixels(values: &[u8]) -> impl Iterator<Item = f32> + '_ {
    values.iter().map(|&value| (f32::from(value) - f32::from(GREY)) / 64.0)
}

/// What a recipe brings images to.
pub(crate) fn image_shape(recipe: &Recipe) -> ImageShape {
    let size = recipe.data.image_size;
    ImageShape { channels: if recipe.data.color { 3 } else { 1 }, height: size, width: size }
}

/// What reads images, as a recipe says.
pub(super) fn convolution(recipe: &Recipe) -> ConvolutionConfig {
    let ImageShape { channels, height, width } = image_shape(recipe);
    ConvolutionConfig {
        image: [channels, height, width],
        filters: recipe.model.filters,
        layers: recipe.model.convolutions,
    }
}
