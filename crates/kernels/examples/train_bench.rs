//! Rates of the training kernels, per CPU second: `cargo run --release -p kernels --example train_bench [-- bf16]`.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use kernels::{
    Arithmetic, AttentionSegment, FlashAttention, Head, Level, LoraFactors, Projection, TokenGradient,
    Wanted, Weight, has_bf16_products, rms_norm, rms_norm_backward, swiglu, swiglu_backward,
};

/// Seconds that all threads of this process ran: on a machine that others use too, the wall says nothing.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let run = tasks.filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok());
    run.filter_map(|s| s.split(' ').next()?.parse::<f64>().ok()).sum::<f64>() / 1e9
}

/// Best of five, in CPU seconds where the system tells them.
fn best<T>(mut f: impl FnMut() -> Result<T>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let (start, wall) = (cpu_seconds(), Instant::now());
        f()?;
        let cpu = cpu_seconds() - start;
        best = best.min(if cpu > 0.0 { cpu } else { wall.elapsed().as_secs_f64() });
    }
    Ok(best)
}

fn main() -> Result<()> {
    let cpu = Device::Cpu;
    println!(
        "{:?}, bf16 {}, {} threads",
        Level::current(),
        has_bf16_products(),
        rayon::current_num_threads()
    );
    let random = |shape: (usize, usize)| -> Result<Tensor> {
        let n = shape.0 * shape.1;
        let v: Vec<f32> = (0..n).map(|i| ((i * 2_654_435_761 % 1000) as f32 - 500.0) / 500.0).collect();
        Tensor::from_vec(v, shape, &Device::Cpu)
    };
    let bf16_alone = std::env::args().any(|a| a == "bf16");
    for arithmetic in [Arithmetic::F32, Arithmetic::Bf16].into_iter().skip(usize::from(bf16_alone)) {
        for (rows, inputs, outputs) in
            [(512, 576, 1536), (2048, 576, 1536), (2048, 1536, 576), (512, 576, 192), (2048, 2048, 2048)]
        {
            let weight = Weight::frozen(&random((outputs, inputs))?, arithmetic)?;
            let (x, g) = (random((rows, inputs))?, random((rows, outputs))?);
            let (a, b) = (random((16, inputs))?, random((outputs, 16))?);
            let plain = Projection { weight: &weight, bias: None, lora: None, arithmetic };
            let lora = Projection { lora: Some(LoraFactors { a: &a, b: &b, scale: 2.0 }), ..plain };
            let wanted = Wanted { x: true, weight: false };
            let flop = 2.0 * (rows * inputs * outputs) as f64 / 1e9;
            let forward = best(|| plain.forward(&x))?;
            let forward_lora = best(|| lora.forward(&x))?;
            let backward = best(|| plain.backward(&x, &g, wanted))?;
            let backward_lora = best(|| lora.backward(&x, &g, wanted))?;
            println!(
                "{arithmetic:?} {rows}x{inputs}x{outputs}: forward {:.0} GFLOP/s ({:.2} ms, lora {:.2}), backward dx {:.0} ({:.2} ms, lora {:.2})",
                flop / forward,
                forward * 1e3,
                forward_lora * 1e3,
                flop / backward,
                backward * 1e3,
                backward_lora * 1e3
            );
        }
        for tokens in [512usize, 2048, 8192] {
            let attention = FlashAttention {
                heads: 9,
                kv_heads: 3,
                head_dim: 64,
                window: None,
                segments: Arc::new(vec![AttentionSegment { rows: 0..tokens, prefix: 0..0 }]),
                arithmetic,
            };
            let (q, k, v) = (random((tokens, 576))?, random((tokens, 192))?, random((tokens, 192))?);
            let done = attention.forward(&q, &k, &v)?;
            let forward = best(|| attention.forward(&q, &k, &v))?;
            let backward = best(|| attention.backward(&q, &k, &v, &done, &q))?;
            let flop = 2.0 * (tokens * tokens * 576) as f64 / 1e9;
            println!(
                "{arithmetic:?} attention {tokens}: forward {:.2} ms ({:.0} GFLOP/s), backward {:.2} ms ({:.0})",
                forward * 1e3,
                flop / forward,
                backward * 1e3,
                2.5 * flop / backward
            );
        }
        let weight = Weight::frozen(&random((49152, 576))?, arithmetic)?;
        let x = random((512, 576))?;
        let targets: Vec<u32> = (0..512).collect();
        let head = Head { weight: &weight, arithmetic, statistics: false };
        let flop = 2.0 * (512.0 * 576.0 * 49152.0) / 1e9;
        let forward = best(|| head.forward(&x, &targets))?;
        let gradient = |_: usize, _: &kernels::TokenLogProbs| TokenGradient { target: -0.01, mean: 0.0 };
        let backward = best(|| head.backward(&x, &targets, &gradient, None))?;
        println!(
            "{arithmetic:?} head 512: forward {:.1} ms ({:.0} GFLOP/s), with backward {:.1} ms ({:.0})",
            forward * 1e3,
            flop / forward,
            backward * 1e3,
            2.0 * flop / backward
        );
    }
    let (x, g) = (random((2048, 1536))?, random((2048, 1536))?);
    let w = Tensor::ones(1536, candle_core::DType::F32, &cpu)?;
    println!(
        "rms_norm 2048x1536 {:.2} ms, backward {:.2} ms",
        best(|| rms_norm(&x, &w, 1e-5))? * 1e3,
        best(|| rms_norm_backward(&x, &w, &g, 1e-5))? * 1e3
    );
    println!(
        "swiglu {:.2} ms, backward {:.2} ms",
        best(|| swiglu(&x, &g))? * 1e3,
        best(|| swiglu_backward(&x, &g, &x))? * 1e3
    );
    println!("add {:.2} ms", best(|| &x + &g)? * 1e3);
    Ok(())
}
