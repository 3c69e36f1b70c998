//! The one place that decides where a model runs.

use candle_core::Device;

use crate::types::LmError;

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA where this build and this machine have it, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU by number.
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            other => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(n) => Ok(Self::Cuda(n)),
                None => Err(format!("{other:?} is no device; give auto, cpu, cuda or cuda:N")),
            },
        }
    }
}

/// Picks the device and says in a few words which, and why.
///
/// # Errors
/// If a GPU was asked for by name and cannot be had.
pub fn device(choice: DeviceChoice) -> Result<(Device, String), LmError> {
    let cuda = |n: usize| -> Result<Device, String> {
        if cfg!(feature = "cuda") {
            // `cuda_if_available` only asks for the feature and fails without a driver.
            Device::new_cuda(n).map_err(|e| e.to_string().lines().next().unwrap_or_default().to_string())
        } else {
            Err("this build has no CUDA (crates/kernels/cuda/build.sh makes one that has)".into())
        }
    };
    match choice {
        DeviceChoice::Cpu => Ok((Device::Cpu, "cpu".into())),
        DeviceChoice::Cuda(n) => match cuda(n) {
            Ok(device) => Ok((device, format!("cuda:{n}"))),
            Err(why) => Err(LmError::Model(format!("cuda:{n} cannot be used: {why}; use --device cpu"))),
        },
        DeviceChoice::Auto => match cuda(0) {
            Ok(device) => Ok((device, "cuda:0".into())),
            Err(why) => Ok((Device::Cpu, format!("cpu ({why})"))),
        },
    }
}
