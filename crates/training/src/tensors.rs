//! Files of tensors, written and read one tensor at a time: a training keeps its weights and moments once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::{Dtype, SafeTensorError, SafeTensors, View};

use crate::error::TrainError;

/// Numbers that are no tensor.
struct Values<'a> {
    values: &'a [f32],
    shape: [usize; 1],
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }
    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

/// Writes `tensors` in the layout that Python's loaders read.
pub(crate) fn write_tensors(path: &Path, tensors: &HashMap<String, Tensor>) -> Result<(), TrainError> {
    write(path, tensors)
}

/// Writes lists of numbers by name.
pub(crate) fn write_values<'a>(
    path: &Path,
    lists: impl Iterator<Item = (String, &'a [f32])>,
) -> Result<(), TrainError> {
    write(path, lists.map(|(name, values)| (name, Values { values, shape: [values.len()] })))
}

fn write<S: AsRef<str> + Ord + std::fmt::Display, V: View>(
    path: &Path,
    tensors: impl IntoIterator<Item = (S, V)>,
) -> Result<(), TrainError> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(tensors, Some(metadata), path).map_err(|e| {
        let source = match e {
            SafeTensorError::IoError(e) => e,
            other => std::io::Error::other(other.to_string()),
        };
        TrainError::Io { path: path.into(), source }
    })
}

/// Hands the tensors of a file to `take`, one after the other.
///
/// # Errors
/// What `damaged` makes of the reason, if the file cannot be read; as `take`.
pub(crate) fn each_tensor(
    path: &Path,
    damaged: impl Fn(&str) -> TrainError,
    mut take: impl FnMut(&str, Tensor) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let bad = |why: String| damaged(why.lines().next().unwrap_or_default());
    let map = kernels::mmap(path).map_err(|e| bad(e.to_string()))?;
    let file = SafeTensors::deserialize(&map).map_err(|e| bad(e.to_string()))?;
    for (name, view) in file.iter() {
        let tensor = view.load(&Device::Cpu).map_err(|e| bad(e.to_string()))?;
        map.release(view.data());
        take(name, tensor)?;
    }
    Ok(())
}
