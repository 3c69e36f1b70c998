//! What is trained and what stands beside it: policy, reference, head.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use kernels::{Arithmetic, TokenGradient, TokenLogProbs};
use models::{
    AdapterFiles, BaseSample, Gradients, Keep, LoraSettings, Model, ModelSource, PackedBatch, Pass, Train,
    TrainableDecoder, TrainableOptions, linear_modules,
};

use crate::error::TrainError;
use crate::heads::{DegreeHead, RewardHead, take_heads};
use crate::objectives::Objective as Preference;
use crate::packing::Packing;
use crate::recipe::{Dtype, Kind, Lora, Objective, Recipe, Recompute};

/// Where reference log-probabilities come from.
pub(crate) enum Reference {
    /// The objective has none.
    None,
    /// The policy itself with its adapter switched off.
    Off,
    /// A model of its own.
    Own(Box<TrainableDecoder>),
}

/// Models of a training.
pub(crate) struct Network {
    pub(crate) model: Model<TrainableDecoder>,
    pub(crate) reference: Reference,
    /// Fingerprint of the model that is trained, as it was at the start.
    pub(crate) begins: String,
    /// Fingerprint of the adapter that goes on.
    pub(crate) goes_on: Option<String>,
    /// What the adapter that comes out remembers of its base.
    pub(crate) base: Option<BaseSample>,
    /// Fingerprint of the reference.
    pub(crate) refers: String,
    pub(crate) head: Option<RewardHead>,
    pub(crate) degree: Option<DegreeHead>,
    recompute: Recompute,
}

/// Activations that are kept rather than computed again, at most, in bytes.
const KEPT: usize = 256 << 20;

pub(crate) fn arithmetic(dtype: Dtype) -> Arithmetic {
    match dtype {
        Dtype::F32 => Arithmetic::F32,
        Dtype::Bf16 => Arithmetic::Bf16,
    }
}

/// How many of the last blocks keep their activations.
pub(crate) fn kept_blocks(recompute: Recompute, layers: usize, bytes_per_block: usize) -> usize {
    match recompute {
        Recompute::Always => 0,
        Recompute::Never => layers,
        Recompute::Auto => (KEPT / bytes_per_block.max(1)).min(layers),
    }
}

impl Network {
    /// Loads what the recipe names.
    pub(crate) fn load(recipe: &Recipe) -> Result<Self, TrainError> {
        let source = ModelSource::parse(&recipe.model);
        let (device, arithmetic) = (Device::Cpu, arithmetic(recipe.dtype));
        let frozen = matches!(&recipe.objective, Objective::Reward(o) if o.freeze_trunk);
        let mut saved_head = BTreeMap::new();
        let train = match &recipe.lora {
            Some(Lora { init: Some(folder), .. }) => {
                let mut files = AdapterFiles::read(folder)?;
                if recipe.kind == Kind::Reward {
                    saved_head = take_heads(&mut files.tensors);
                }
                Train::Adapter(files)
            }
            Some(lora) => {
                let settings = LoraSettings {
                    r: lora.r,
                    alpha: lora.lora_alpha,
                    use_rslora: lora.use_rslora,
                    target_modules: targets(lora, &source)?,
                };
                Train::Lora(settings, recipe.seed)
            }
            None if frozen => Train::Nothing,
            None => Train::All,
        };
        let options = TrainableOptions { device: device.clone(), arithmetic, train };
        let mut model = Model::load_trainable(&source, options)?;
        let needs_reference = match &recipe.objective {
            Objective::Preference(settings) => {
                Preference::new(settings).map_err(TrainError::Recipe)?.needs().reference
            }
            _ => false,
        };
        let mut refers = source.fingerprint(&model.sha256)?;
        let begins = refers.clone();
        let (adapter_print, base) = match &recipe.lora {
            Some(Lora { init: Some(folder), .. }) => {
                (Some(AdapterFiles::fingerprint(folder)?), BaseSample::of(&*source.weights()?)?)
            }
            Some(_) => (None, BaseSample::of(&*source.weights()?)?),
            None => (None, None),
        };
        let own = recipe.reference_model.as_deref().unwrap_or(&recipe.model);
        let adapter = recipe.lora.as_ref().map(|l| l.init.is_some());
        let reference = if !needs_reference {
            Reference::None
        } else if let (Some(goes_on), None) = (adapter, &recipe.reference_model) {
            if goes_on {
                // An adapter that goes on from somewhere has that start as its reference, not the bare base.
                refers = format!("{} over {refers}", adapter_print.as_deref().unwrap_or_default());
                Reference::Own(Box::new(model.decoder.frozen()?))
            } else {
                Reference::Off
            }
        } else {
            let source = ModelSource::parse(own);
            let train = if recipe.reference.is_some() { Train::All } else { Train::Nothing };
            let options = TrainableOptions { device, arithmetic, train };
            let loaded = Model::load_trainable(&source, options)?;
            if loaded.decoder.config().vocab_size != model.decoder.config().vocab_size {
                return Err(TrainError::Recipe(format!(
                    "reference_model {own} has a vocabulary of {}, the model one of {}",
                    loaded.decoder.config().vocab_size,
                    model.decoder.config().vocab_size
                )));
            }
            refers = source.fingerprint(&loaded.sha256)?;
            Reference::Own(Box::new(loaded.decoder))
        };
        let head = match &recipe.objective {
            Objective::Reward(objective) => {
                Some(RewardHead::new(objective, &mut model.decoder, recipe.seed, &source, &saved_head)?)
            }
            _ => None,
        };
        let degree = match &recipe.degree {
            Some(degree) if recipe.kind == Kind::Preference => {
                Some(DegreeHead::new(degree, &mut model.decoder, recipe.seed, &source)?)
            }
            _ => None,
        };
        Ok(Self {
            model,
            reference,
            begins,
            goes_on: adapter_print,
            refers,
            base,
            head,
            degree,
            recompute: recipe.recompute,
        })
    }

    pub(crate) fn decoder(&self) -> &TrainableDecoder {
        &self.model.decoder
    }

    /// A pass of the policy that will be differentiated.
    pub(crate) fn forward(&self, batch: &PackedBatch) -> Result<Pass, TrainError> {
        let decoder = self.decoder();
        let bytes = decoder.block_bytes_per_token() * batch.len();
        let whole = kept_blocks(self.recompute, decoder.config().num_layers, bytes);
        Ok(decoder.forward(batch, true, Keep::Inputs { whole })?)
    }

    /// The reference's decoder and whether its adapters are on.
    pub(crate) fn reference(&self) -> Option<(&TrainableDecoder, bool)> {
        match &self.reference {
            Reference::None => None,
            Reference::Off => Some((self.decoder(), false)),
            Reference::Own(decoder) => Some((decoder, true)),
        }
    }
}

/// Names of the modules that `target_modules` means.
pub(crate) fn targets(lora: &Lora, source: &ModelSource) -> Result<Vec<String>, TrainError> {
    match lora.target_modules.as_slice() {
        [one] if one == "all-linear" => {
            let config = models::config_of(source)?;
            Ok(linear_modules(&config).iter().map(|m| (*m).to_string()).collect())
        }
        [] => Err(TrainError::Recipe("lora.target_modules is empty".into())),
        names => Ok(names.to_vec()),
    }
}

/// Hidden states of the rows that predict something.
pub(crate) fn predicting(hidden: &Tensor, index: &[u32]) -> Result<Tensor, TrainError> {
    Ok(hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?)
}

/// What the decoder says of all predictions of a packing, without gradients.
pub(crate) fn logprobs(
    decoder: &TrainableDecoder,
    hidden: &Tensor,
    packing: &Packing,
    statistics: bool,
) -> Result<Vec<TokenLogProbs>, TrainError> {
    let picked = predicting(hidden, &packing.index)?;
    Ok(decoder.head(statistics).forward(&picked, &packing.targets)?)
}

/// Sends gradients of the predictions through the head; returns those of all hidden rows, `[tokens, hidden]`.
pub(crate) fn head_backward(
    decoder: &TrainableDecoder,
    hidden: &Tensor,
    packing: &Packing,
    statistics: bool,
    gradient: &(dyn Fn(usize, &TokenLogProbs) -> TokenGradient + Sync),
    gradients: &mut Gradients,
) -> Result<(Vec<TokenLogProbs>, Tensor), TrainError> {
    let picked = predicting(hidden, &packing.index)?;
    let weight = decoder.head_variable().map(|(name, length)| gradients.entry(name, length));
    let made = decoder.head(statistics).backward(&picked, &packing.targets, gradient, weight)?;
    let index = Tensor::new(packing.index.as_slice(), hidden.device())?;
    let spread = hidden.zeros_like()?.index_add(&index, &made.hidden, 0)?;
    Ok((made.tokens, spread))
}
