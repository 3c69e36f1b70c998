//! Building a decoder in training from a checkpoint's tensors.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var};
use kernels::{Arithmetic, Weight};

use super::adapters::{AdapterFiles, LoraSettings, factor};
use super::block::{Layer, Map};
use super::{Embedding, TrainableDecoder};
use crate::base_sample::BaseSample;
use crate::config::{Architecture, DecoderConfig};
use crate::error::ModelError;
use crate::weights::{WeightSource, fetch};

/// What moves.
pub enum Train {
    /// All weights.
    All,
    /// A new adapter: A at random by this seed, B zero.
    Lora(LoraSettings, u64),
    /// An adapter that goes on from these values.
    Adapter(AdapterFiles),
    /// Nothing: a reference, or a trunk under a head that moves.
    Nothing,
}

/// How a decoder is loaded for training.
pub struct TrainableOptions {
    /// Where it runs.
    pub device: Device,
    /// Number type of the products.
    pub arithmetic: Arithmetic,
    /// What moves.
    pub train: Train,
}

struct Loader<'a> {
    source: &'a dyn WeightSource,
    device: &'a Device,
    arithmetic: Arithmetic,
    full: bool,
    variables: BTreeMap<String, Var>,
}

impl Loader<'_> {
    /// A variable of this name if everything moves, else the tensor.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        if let Some(variable) = self.variables.get(name) {
            return Ok(variable.as_detached_tensor());
        }
        let tensor = fetch(self.source, name, shape)?.to_dtype(DType::F32)?.to_device(self.device)?;
        if !self.full {
            return Ok(tensor);
        }
        let variable = Var::from_tensor(&tensor)?;
        // Detached, it shares the variable's storage and no graph grows on it.
        let tensor = variable.as_detached_tensor();
        self.variables.insert(name.to_string(), variable);
        Ok(tensor)
    }

    /// A matrix, packed or as quantised as it is stored if it is frozen.
    fn weight(&mut self, name: &str, shape: [usize; 2]) -> Result<Weight, ModelError> {
        if self.full {
            return Ok(Weight::moving(&self.tensor(name, &shape)?)?);
        }
        if self.device.is_cpu() {
            if let Some((format, bytes)) = self.source.blocks(name)? {
                return Ok(Weight::quantised(shape[0], shape[1], format, bytes)?);
            }
        }
        let tensor = fetch(self.source, name, &shape)?.to_device(self.device)?;
        // What is stored in two bytes needs no more.
        let keep = match tensor.dtype() {
            DType::BF16 => Arithmetic::Bf16,
            _ => self.arithmetic,
        };
        Ok(Weight::frozen(&tensor, keep)?)
    }

    fn map(&mut self, module: String, shape: [usize; 2], bias: bool) -> Result<Map, ModelError> {
        let weight = self.weight(&format!("{module}.weight"), shape)?;
        let bias = if bias { Some(self.tensor(&format!("{module}.bias"), &shape[..1])?) } else { None };
        Ok(Map { module, weight, bias, lora: None })
    }
}

/// `count` numbers of U(−bound, bound), a function of the seed and the name alone.
fn uniform(seed: u64, name: &str, count: usize, bound: f64) -> Vec<f32> {
    let mut state = name
        .bytes()
        .fold(seed ^ 0x9e37_79b9_7f4a_7c15, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count).map(|_| ((2.0 * next() - 1.0) * bound) as f32).collect()
}

impl TrainableDecoder {
    /// Builds the decoder from its tensors.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape, or is not finite; if an adapter belongs to another base.
    pub fn load(
        config: &DecoderConfig,
        source: &dyn WeightSource,
        options: TrainableOptions,
    ) -> Result<Self, ModelError> {
        let full = matches!(options.train, Train::All);
        let mut load = Loader {
            source,
            device: &options.device,
            arithmetic: options.arithmetic,
            full,
            variables: BTreeMap::new(),
        };
        let c = config;
        let (q, kv) = (c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim);
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let mut layers = Vec::with_capacity(c.num_layers);
        for i in 0..c.num_layers {
            let name = format!("model.layers.{i}");
            let at = |part: &str| format!("{name}.{part}");
            let (qkv, ffn): (Vec<Map>, Vec<Map>) = if c.architecture == Architecture::Phi3 {
                (
                    vec![load.map(at("self_attn.qkv_proj"), [q + 2 * kv, hidden], c.qkv_bias)?],
                    vec![load.map(at("mlp.gate_up_proj"), [2 * inner, hidden], c.mlp_bias)?],
                )
            } else {
                let qkv = [("q", q), ("k", kv), ("v", kv)]
                    .map(|(p, out)| load.map(at(&format!("self_attn.{p}_proj")), [out, hidden], c.qkv_bias));
                let ffn = ["gate", "up"]
                    .map(|p| load.map(at(&format!("mlp.{p}_proj")), [inner, hidden], c.mlp_bias));
                (qkv.into_iter().collect::<Result<_, _>>()?, ffn.into_iter().collect::<Result<_, _>>()?)
            };
            let head_norms = if c.qk_norm {
                Some((
                    load.tensor(&at("self_attn.q_norm.weight"), &[c.head_dim])?,
                    load.tensor(&at("self_attn.k_norm.weight"), &[c.head_dim])?,
                ))
            } else {
                None
            };
            layers.push(Layer {
                input_norm: load.tensor(&at("input_layernorm.weight"), &[hidden])?,
                qkv,
                head_norms,
                o: load.map(at("self_attn.o_proj"), [hidden, q], c.o_bias)?,
                post_norm: load.tensor(&at("post_attention_layernorm.weight"), &[hidden])?,
                ffn,
                down: load.map(at("mlp.down_proj"), [hidden, inner], c.mlp_bias)?,
                name,
            });
        }
        let norm = load.tensor("model.norm.weight", &[hidden])?;
        let table = [c.vocab_size, hidden];
        let (embedding, head) = if c.tie_word_embeddings {
            (Embedding::Head, load.weight("model.embed_tokens.weight", table)?)
        } else {
            let rows = if full {
                load.tensor("model.embed_tokens.weight", &table)?
            } else {
                // Looked up, never multiplied: as it is stored.
                fetch(source, "model.embed_tokens.weight", &table)?.to_device(&options.device)?
            };
            (Embedding::Rows(rows), load.weight("lm_head.weight", table)?)
        };
        let mut variables = load.variables;
        let lora = match options.train {
            Train::All | Train::Nothing => None,
            Train::Lora(settings, seed) => {
                add_lora(&mut layers, &settings, &mut variables, &options.device, |name, shape, which| {
                    if which == 'B' {
                        return Ok(Tensor::zeros(shape, DType::F32, &Device::Cpu)?);
                    }
                    // Kaiming uniform with a = √5, as PEFT starts it.
                    let bound = 1.0 / (shape.1 as f64).sqrt();
                    let values = uniform(seed, name, shape.0 * shape.1, bound);
                    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
                })?;
                Some(settings)
            }
            Train::Adapter(files) => {
                let AdapterFiles { settings, mut tensors, folder } = files;
                BaseSample::check(&folder, source)?;
                add_lora(&mut layers, &settings, &mut variables, &options.device, |name, shape, _| {
                    let found = tensors.remove(name).ok_or_else(|| {
                        ModelError::Adapter(format!("has no {name}; it was made for another model"))
                    })?;
                    if found.dims() != [shape.0, shape.1] {
                        return Err(ModelError::Adapter(format!(
                            "{name} is {:?}, this model needs [{}, {}]",
                            found.dims(),
                            shape.0,
                            shape.1
                        )));
                    }
                    Ok(found)
                })?;
                if let Some(name) = tensors.keys().find(|n| n.contains(".lora_")) {
                    return Err(ModelError::Adapter(format!(
                        "{name} belongs to no module of this model; it was made for another one"
                    )));
                }
                if let Some(name) = tensors.keys().next() {
                    return Err(ModelError::Adapter(format!(
                        "holds {name} beside its factors, which a training that goes on from it would lose; \
                         `cycle models merge` makes a model of both"
                    )));
                }
                Some(settings)
            }
        };
        let (frequencies, rope_scale) = crate::decoder::frequencies(config);
        Ok(Self {
            config: config.clone(),
            device: options.device,
            arithmetic: options.arithmetic,
            embedding,
            layers,
            norm,
            head,
            frequencies,
            rope_scale,
            full,
            variables,
            lora,
        })
    }
}

impl TrainableDecoder {
    /// The decoder as it is now, which no later step moves: it shares the frozen weights and has factors of its own.
    ///
    /// # Errors
    /// If the weights themselves move, or a tensor cannot be copied.
    pub fn frozen(&self) -> Result<Self, ModelError> {
        if self.full {
            return Err(ModelError::Adapter("is none: all weights move".into()));
        }
        let mut layers = self.layers.clone();
        for map in layers.iter_mut().flat_map(Layer::maps_mut) {
            if let Some((a, b, _)) = &mut map.lora {
                (*a, *b) = (a.copy()?, b.copy()?);
            }
        }
        Ok(Self {
            config: self.config.clone(),
            device: self.device.clone(),
            arithmetic: self.arithmetic,
            embedding: self.embedding.clone(),
            layers,
            norm: self.norm.clone(),
            head: self.head.clone(),
            frequencies: self.frequencies.clone(),
            rope_scale: self.rope_scale,
            full: false,
            variables: BTreeMap::new(),
            // Nothing moves: passes read the factors of their maps.
            lora: None,
        })
    }
}

fn add_lora(
    layers: &mut [Layer],
    settings: &LoraSettings,
    variables: &mut BTreeMap<String, Var>,
    device: &Device,
    mut start: impl FnMut(&str, (usize, usize), char) -> Result<Tensor, ModelError>,
) -> Result<(), ModelError> {
    let mut unused: Vec<&String> = settings.target_modules.iter().collect();
    for map in layers.iter_mut().flat_map(Layer::maps_mut) {
        let last = map.module.rsplit('.').next().unwrap_or_default();
        if !settings.target_modules.iter().any(|t| t == last) {
            continue;
        }
        unused.retain(|t| *t != last);
        let (outputs, inputs) = (map.weight.outputs(), map.weight.inputs());
        let mut make = |which: char, rows: Range<usize>, columns: usize| -> Result<Tensor, ModelError> {
            let name = factor(&map.module, which);
            let variable = Var::from_tensor(&start(&name, (rows.end, columns), which)?.to_device(device)?)?;
            let tensor = variable.as_detached_tensor();
            variables.insert(name, variable);
            Ok(tensor)
        };
        let a = make('A', 0..settings.r, inputs)?;
        let b = make('B', 0..outputs, settings.r)?;
        map.lora = Some((a, b, settings.scale()));
    }
    match unused.first() {
        Some(name) => Err(ModelError::Adapter(format!("no linear module is called {name:?}"))),
        None => Ok(()),
    }
}
