//! Matrix products by our packed weights beside candle's, in one run: `cargo run -p kernels --example gemm_bench`.

use std::time::Instant;

use candle_core::{Device, Tensor};
use kernels::{Level, PackedWeight, WeightType};

/// Best of several runs, in GFLOP/s.
fn rate(flop: f64, mut f: impl FnMut() -> candle_core::Result<Tensor>) -> candle_core::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        f()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(flop / best / 1e9)
}

fn main() -> candle_core::Result<()> {
    println!("{:?}, {} threads", Level::current(), rayon::current_num_threads());
    println!(
        "{:>6} {:>6} {:>6} {:>10} {:>10} {:>10} {:>10}",
        "m", "k", "n", "ours f32", "ours bf16", "candle", "ratio"
    );
    for (m, k, n) in [
        (1, 2048, 2048),
        (4, 2048, 2048),
        (12, 2048, 2048),
        (24, 2048, 2048),
        (48, 2048, 2048),
        (512, 2048, 2048),
        (1024, 576, 1536),
        (1024, 1536, 576),
    ] {
        let weight = Tensor::randn(0f32, 1.0, (n, k), &Device::Cpu)?;
        let x = Tensor::randn(0f32, 1.0, (m, k), &Device::Cpu)?;
        let f32 = PackedWeight::pack(&weight, WeightType::F32)?;
        let bf16 = PackedWeight::pack(&weight, WeightType::Bf16)?;
        let transposed = weight.t()?;
        let flop = 2.0 * (m * k * n) as f64;
        let ours = rate(flop, || f32.linear(&x, None))?;
        let half = rate(flop, || bf16.linear(&x, None))?;
        let candle = rate(flop, || x.matmul(&transposed))?;
        println!("{m:>6} {k:>6} {n:>6} {ours:>10.1} {half:>10.1} {candle:>10.1} {:>10.2}", ours / candle);
    }
    Ok(())
}
