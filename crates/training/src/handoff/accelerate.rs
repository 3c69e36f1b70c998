//! `accelerate`'s configuration: which processes there are and how they share the weights.

use serde_json::{Map, Value, json};

use super::{HandoffError, Hardware, Job, Precision, Sharding, yaml};

/// The text of `accelerate.yaml`.
pub(super) fn config(job: &Job) -> Result<String, HandoffError> {
    let bf16 = job.precision == Precision::Bfloat16;
    let mut pairs: Vec<(&str, Value)> =
        vec![("compute_environment", json!("LOCAL_MACHINE")), ("debug", json!(false))];
    let kind = match &job.hardware {
        Hardware::Cpu => "NO",
        Hardware::Gpus { sharding: Sharding::Zero2 | Sharding::Zero3, .. } => "DEEPSPEED",
        Hardware::Gpus { sharding: Sharding::Fsdp, .. } => "FSDP",
        Hardware::Gpus { sharding: Sharding::None, .. } if job.hardware.processes() == 1 => "NO",
        Hardware::Gpus { sharding: Sharding::None, .. } => "MULTI_GPU",
    };
    pairs.push(("distributed_type", json!(kind)));
    if let Some(table) = sharing(job)? {
        pairs.push((if kind == "FSDP" { "fsdp_config" } else { "deepspeed_config" }, Value::Object(table)));
    }
    let machines = match &job.hardware {
        Hardware::Cpu => 1,
        Hardware::Gpus { machines, main, .. } => {
            if *machines > 1 {
                let (host, port) = main.as_deref().and_then(|m| m.rsplit_once(':')).ok_or_else(|| {
                    HandoffError::unsupported(
                        format!("{machines} machines need to know where the first one is"),
                        "give its address as HOST:PORT",
                    )
                })?;
                pairs.push(("main_process_ip", json!(host)));
                pairs.push(("main_process_port", json!(port.parse::<u16>().unwrap_or(29500))));
            }
            *machines
        }
    };
    pairs.extend([
        ("downcast_bf16", json!("no")),
        ("machine_rank", json!(0)),
        ("main_training_function", json!("main")),
        ("mixed_precision", json!(if bf16 { "bf16" } else { "no" })),
        ("num_machines", json!(machines)),
        ("num_processes", json!(job.hardware.processes())),
        ("rdzv_backend", json!("static")),
        ("same_network", json!(true)),
        ("use_cpu", json!(job.hardware == Hardware::Cpu)),
    ]);
    Ok(yaml::text("For `trl COMMAND --accelerate_config` and `accelerate launch --config_file`.", &pairs))
}

/// How weights and moments are spread; the shape of TRL's own `accelerate_configs`.
fn sharing(job: &Job) -> Result<Option<Map<String, Value>>, HandoffError> {
    let Hardware::Gpus { sharding, .. } = &job.hardware else { return Ok(None) };
    let (_, accumulation) = job.share()?;
    let table = match sharding {
        Sharding::None => return Ok(None),
        Sharding::Zero2 | Sharding::Zero3 => json!({
            "deepspeed_multinode_launcher": "standard",
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": job.optimizer.max_grad_norm,
            "offload_optimizer_device": "none",
            "offload_param_device": "none",
            "zero3_init_flag": *sharding == Sharding::Zero3,
            "zero3_save_16bit_model": *sharding == Sharding::Zero3,
            "zero_stage": if *sharding == Sharding::Zero3 { 3 } else { 2 },
        }),
        Sharding::Fsdp => json!({
            "fsdp_activation_checkpointing": false,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_cpu_ram_efficient_loading": true,
            "fsdp_offload_params": false,
            "fsdp_reshard_after_forward": true,
            "fsdp_state_dict_type": "FULL_STATE_DICT",
            "fsdp_version": 2,
        }),
    };
    Ok(table.as_object().cloned())
}
