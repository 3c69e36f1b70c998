//! What every command needs: settings, loudness, the model, the store.

use std::path::Path;

use lm::{DeviceChoice, LanguageModel, Local, ModelRef, OpenOptions, Sampling};
use store::Store;

use crate::args::{Global, ModelArgs};
use crate::failure::{Code, Failure};
use crate::progress::{Loudness, loudness, say};
use crate::recorder::Recorder;
use crate::settings::Settings;

/// What every command needs.
pub struct Context {
    /// What is in force.
    pub settings: Settings,
    /// How much is said.
    pub loudness: Loudness,
}

impl Context {
    /// Settings with the global options over them; sets the number of threads.
    ///
    /// # Errors
    /// If a configuration file is wrong.
    pub fn new(global: &Global) -> Result<Self, Failure> {
        let mut settings = Settings::load()?;
        settings.set("store", global.store.as_ref().map(|p| p.display()));
        settings.set("offline", global.offline.then_some(true));
        settings.set("threads", global.threads);
        if let Some(threads) = settings.number::<usize>("threads")? {
            let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        }
        Ok(Self { settings, loudness: loudness(global.quiet) })
    }

    /// Says something on standard error.
    pub fn note(&self, text: &str) {
        if self.loudness != Loudness::Quiet {
            say(text);
        }
    }

    /// Gives the sampler's options that were not typed the values of the settings.
    ///
    /// # Errors
    /// If a value makes no sense.
    pub fn fill(&self, args: &mut ModelArgs) -> Result<(), Failure> {
        args.temperature = args.temperature.or(self.settings.number("temperature")?);
        args.top_p = args.top_p.or(self.settings.number("top_p")?);
        args.top_k = args.top_k.or(self.settings.number("top_k")?);
        args.min_p = args.min_p.or(self.settings.number("min_p")?);
        Ok(())
    }

    /// Puts the model's options over the settings.
    pub fn apply(&mut self, args: &ModelArgs) {
        self.settings.set("model", args.model.as_ref());
        self.settings.set("device", args.device.as_ref());
        self.settings.set("dtype", args.dtype.as_ref());
        self.settings.set("seed", args.seed);
    }

    /// The model that was named, or the built-in one for this work.
    ///
    /// # Errors
    /// If the reference does not parse.
    pub fn reference(&self, builtin: &str) -> Result<ModelRef, Failure> {
        self.settings
            .get("model")
            .map_or_else(|| format!("builtin:{builtin}"), String::from)
            .parse()
            .map_err(Failure::from)
    }

    /// How models are opened.
    ///
    /// # Errors
    /// If a setting makes no sense.
    pub fn open_options(&self) -> Result<OpenOptions, Failure> {
        let usage = |e: String| Failure::new(Code::Usage, e);
        let device = self.settings.checked("device")?.unwrap_or("auto");
        let device: DeviceChoice = device.parse().map_err(usage)?;
        let dtype = match self.settings.checked("dtype")?.unwrap_or("auto") {
            "f32" => Some(candle_core::DType::F32),
            "bf16" => Some(candle_core::DType::BF16),
            "f16" => Some(candle_core::DType::F16),
            _ => None,
        };
        Ok(OpenOptions {
            device,
            dtype,
            offline: self.settings.flag("offline"),
            models_dir: Some(self.settings.home.join("models")),
        })
    }

    /// Opens any model and says what the user should know about it; what it writes is stored.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn open(&self, reference: &ModelRef) -> Result<Box<dyn LanguageModel>, Failure> {
        let model = lm::open(reference, &self.open_options()?)?;
        self.introduce(model.info());
        // A store that cannot be used is the business of the command that needs one.
        Ok(match self.store() {
            Ok(store) => Box::new(Recorder::new(model, store)),
            Err(_) => model,
        })
    }

    /// Opens a model of this machine.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn open_local(&self, reference: &ModelRef) -> Result<Local, Failure> {
        let model = lm::open_local(reference, &self.open_options()?)?;
        self.introduce(model.info());
        Ok(model)
    }

    fn introduce(&self, info: &lm::ModelInfo) {
        if info.builtin {
            self.note(&format!(
                "{}: the small model that ships with cycle; it shows how things work, its judgement is weak. \
                 A larger one: --model FOLDER, FILE.gguf or http://HOST/v1#MODEL",
                info.reference
            ));
        }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn store(&self) -> Result<Store, Failure> {
        Ok(Store::open(Path::new(&self.settings.store()), store::OpenOptions::default())?)
    }

    /// The seed.
    ///
    /// # Errors
    /// If the configured one is no number.
    pub fn seed(&self) -> Result<u64, Failure> {
        Ok(self.settings.number("seed")?.unwrap_or(0))
    }
}

/// The sampler: options over a default.
///
/// # Errors
/// If a value makes no sense.
pub fn sampling(args: &ModelArgs, default: Sampling) -> Result<Sampling, Failure> {
    let s = Sampling {
        temperature: args.temperature.unwrap_or(default.temperature),
        top_p: args.top_p.unwrap_or(default.top_p),
        top_k: args.top_k.unwrap_or(default.top_k),
        min_p: args.min_p.unwrap_or(default.min_p),
        ..default
    };
    let fine = s.temperature >= 0.0
        && s.temperature.is_finite()
        && (0.0..=1.0).contains(&s.top_p)
        && s.top_p > 0.0
        && (0.0..=1.0).contains(&s.min_p);
    if fine {
        Ok(s)
    } else {
        Err(Failure::new(Code::Usage, "--temperature is at least 0, --top-p in (0, 1], --min-p in [0, 1]"))
    }
}
