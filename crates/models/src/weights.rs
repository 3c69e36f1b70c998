//! Where tensors come from: a Hugging Face folder of safetensors, or anything else that knows their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use kernels::{BlockFormat, Mmap, mmap};
use safetensors::{Dtype, SafeTensors};

use crate::error::ModelError;

/// Tensors by their Hugging Face name (`model.layers.0.self_attn.q_proj.weight`).
pub trait WeightSource {
    /// All names.
    fn names(&self) -> Vec<String>;
    /// One tensor on the CPU, in its stored float type.
    ///
    /// # Errors
    /// If it is missing or damaged.
    fn tensor(&self, name: &str) -> Result<Tensor, ModelError>;
    /// The shape of one tensor.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    fn shape(&self, name: &str) -> Result<Vec<usize>, ModelError> {
        Ok(self.tensor(name)?.dims().to_vec())
    }
    /// The float type in which one tensor is read.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    fn dtype(&self, name: &str) -> Result<DType, ModelError> {
        Ok(self.tensor(name)?.dtype())
    }
    /// The format of a matrix that is stored in blocks which the trainer multiplies as they are.
    fn block_format(&self, _name: &str) -> Option<BlockFormat> {
        None
    }
    /// The blocks of such a matrix, row after row.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    fn blocks(&self, _name: &str) -> Result<Option<(BlockFormat, Vec<u8>)>, ModelError> {
        Ok(None)
    }
}

/// A tensor of this shape whose numbers are all finite.
pub(crate) fn fetch(source: &dyn WeightSource, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
    let tensor = source.tensor(name)?;
    if tensor.dims() != shape {
        return Err(ModelError::Shape {
            name: name.to_string(),
            found: tensor.dims().to_vec(),
            expected: shape.to_vec(),
        });
    }
    // NaN and infinity survive a sum.
    let total = tensor.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    if !total.is_finite() {
        return Err(ModelError::NotFinite(name.to_string()));
    }
    Ok(tensor)
}

impl WeightSource for Box<dyn WeightSource> {
    fn names(&self) -> Vec<String> {
        (**self).names()
    }
    fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        (**self).tensor(name)
    }
    fn shape(&self, name: &str) -> Result<Vec<usize>, ModelError> {
        (**self).shape(name)
    }
    fn dtype(&self, name: &str) -> Result<DType, ModelError> {
        (**self).dtype(name)
    }
    fn block_format(&self, name: &str) -> Option<BlockFormat> {
        (**self).block_format(name)
    }
    fn blocks(&self, name: &str) -> Result<Option<(BlockFormat, Vec<u8>)>, ModelError> {
        (**self).blocks(name)
    }
}

/// A folder with `model.safetensors`, or shards and their index, mapped into memory.
pub struct SafetensorsFolder {
    shards: Vec<(PathBuf, Mmap)>,
    /// Name → shard.
    place: BTreeMap<String, usize>,
}

impl SafetensorsFolder {
    /// The weight files of a folder, in the order of their names.
    ///
    /// # Errors
    /// If there are none, or one that the index names is missing.
    pub fn files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
        let index = folder.join("model.safetensors.index.json");
        if index.exists() {
            let text = read(&index)?;
            let value: serde_json::Value =
                serde_json::from_slice(&text).map_err(|e| ModelError::invalid(&index, e))?;
            let map = value["weight_map"]
                .as_object()
                .ok_or_else(|| ModelError::invalid(&index, "has no weight_map"))?;
            let mut names: Vec<&str> = map.values().filter_map(|v| v.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            if let Some(missing) = names.iter().find(|n| !folder.join(n).exists()) {
                return Err(ModelError::MissingShard { path: folder.into(), shard: (*missing).to_string() });
            }
            return Ok(names.into_iter().map(|n| folder.join(n)).collect());
        }
        let single = folder.join("model.safetensors");
        if single.exists() {
            return Ok(vec![single]);
        }
        let hint = if folder.join("pytorch_model.bin").exists()
            || folder.join("pytorch_model.bin.index.json").exists()
        {
            "holds only pytorch_model.bin; save it as safetensors"
        } else {
            "holds no model.safetensors and no model.safetensors.index.json"
        };
        Err(ModelError::invalid(folder, hint))
    }

    /// Opens the folder's files.
    ///
    /// # Errors
    /// If a file is missing or no safetensors file.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let mut shards = Vec::new();
        let mut place = BTreeMap::new();
        for path in Self::files(folder)? {
            let map = mmap(&path).map_err(|source| ModelError::Io { path: path.clone(), source })?;
            let header = SafeTensors::deserialize(&map).map_err(|e| {
                ModelError::invalid(&path, format!("is no whole safetensors file ({e}); fetch it again"))
            })?;
            for name in header.names() {
                place.insert(name.to_string(), shards.len());
            }
            shards.push((path, map));
        }
        Ok(Self { shards, place })
    }

    /// The file that holds a tensor, its map and its parsed header.
    fn find(&self, name: &str) -> Result<(&Path, &Mmap, SafeTensors<'_>), ModelError> {
        let shard = *self.place.get(name).ok_or_else(|| ModelError::MissingTensor(name.to_string()))?;
        let (path, map) = &self.shards[shard];
        Ok((path, map, SafeTensors::deserialize(map).map_err(|e| ModelError::invalid(path, e))?))
    }
}

impl WeightSource for SafetensorsFolder {
    fn names(&self) -> Vec<String> {
        self.place.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        let (path, map, header) = self.find(name)?;
        let view = header.tensor(name).map_err(|e| ModelError::invalid(path, e))?;
        let dtype = float(name, path, view.dtype())?;
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        map.release(view.data());
        Ok(tensor)
    }

    fn shape(&self, name: &str) -> Result<Vec<usize>, ModelError> {
        let (path, _, header) = self.find(name)?;
        Ok(header.tensor(name).map_err(|e| ModelError::invalid(path, e))?.shape().to_vec())
    }

    fn dtype(&self, name: &str) -> Result<DType, ModelError> {
        let (path, _, header) = self.find(name)?;
        float(name, path, header.tensor(name).map_err(|e| ModelError::invalid(path, e))?.dtype())
    }
}

/// Whole numbers and 8-bit floats are halves of a quantised weight: without their scales they mean nothing.
fn float(name: &str, path: &Path, stored: Dtype) -> Result<DType, ModelError> {
    Ok(match stored {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => {
            let what = format!("{name} has the type {other}; F32, F16 and BF16 weights are read");
            return Err(ModelError::invalid(path, what));
        }
    })
}

/// The bytes of a small file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|source| ModelError::Io { path: path.into(), source })
}
