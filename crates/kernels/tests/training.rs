//! Training kernels against plain differentiable versions in f64, which are themselves held to finite differences.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, Var};
use kernels::{
    Arithmetic, AttentionSegment, BlockFormat, FlashAttention, Head, LoraFactors, Projection, RotaryTable,
    TokenGradient, TokenLogProbs, Wanted, Weight, rms_norm, rms_norm_backward, rope, rope_backward, swiglu,
    swiglu_backward,
};

/// Numbers in [-1, 1) by a seed.
fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn wide(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F64).unwrap()
}

fn flat(t: &Tensor) -> Vec<f64> {
    wide(t).flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference over the largest expected number.
#[track_caller]
fn near(what: &str, ours: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(ours.dims(), expected.dims(), "{what}");
    let (a, b) = (flat(ours), flat(expected));
    let size = b.iter().fold(1e-9f64, |m, x| m.max(x.abs()));
    assert!(a.iter().all(|x| x.is_finite()), "{what}: not finite");
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst / size <= tolerance, "{what}: {worst:e} of {size:e}");
}

/// Result and gradients of a plain function in f64, its gradients held to central differences along random directions.
fn plain(
    inputs: &[&Tensor],
    grad: &Tensor,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> (Tensor, Vec<Tensor>) {
    const STEP: f64 = 1e-5;
    let variables: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(&wide(t)).unwrap()).collect();
    let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let out = f(&tensors).unwrap();
    let grad = wide(grad);
    let sum = |t: Tensor| t.sum_all().unwrap().to_scalar::<f64>().unwrap();
    let store = (&out * &grad).unwrap().sum_all().unwrap().backward().unwrap();
    let mut gradients = Vec::new();
    for (i, variable) in variables.iter().enumerate() {
        let gradient = store.get(variable).cloned().unwrap_or(variable.zeros_like().unwrap());
        let direction = wide(&random(77 + i as u64, variable.dims()));
        let moved = |by: f64| {
            let mut t: Vec<Tensor> = tensors.iter().map(Tensor::detach).collect();
            t[i] = (&t[i] + (&direction * by).unwrap()).unwrap();
            sum((f(&t).unwrap() * &grad).unwrap())
        };
        let numeric = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        let along = sum((&gradient * &direction).unwrap());
        assert!((numeric - along).abs() < 1e-5 * (1.0 + along.abs()), "input {i}: {along} for {numeric}");
        gradients.push(gradient.detach());
    }
    (out.detach(), gradients)
}

const BOTH: [(Arithmetic, f64); 2] = [(Arithmetic::F32, 3e-6), (Arithmetic::Bf16, 1.5e-2)];

#[test]
fn a_projection_and_all_its_gradients_are_those_of_plain_products() {
    for (rows, inputs, outputs, r) in [(37, 70, 131, 5), (1, 33, 32, 1), (500, 96, 64, 8), (30, 1100, 40, 16)]
    {
        let (x, w) = (random(1, &[rows, inputs]), random(2, &[outputs, inputs]));
        let (bias, g) = (random(3, &[outputs]), random(4, &[rows, outputs]));
        let (a, b) = (random(5, &[r, inputs]), random(6, &[outputs, r]));
        let (out, grads) = plain(&[&x, &w, &bias, &a, &b], &g, |t| {
            let low = (t[0].matmul(&t[3].t()?)?.matmul(&t[4].t()?)? * 0.5)?;
            (t[0].matmul(&t[1].t()?)? + low)?.broadcast_add(&t[2])
        });
        for (arithmetic, tolerance) in BOTH {
            let variable = Var::from_tensor(&w).unwrap();
            for (name, weight) in [
                ("frozen", Weight::frozen(&w, arithmetic).unwrap()),
                ("moving", Weight::moving(variable.as_tensor()).unwrap()),
                ("unpacked", Weight::unpacked(&w).unwrap()),
            ] {
                let lora = Some(LoraFactors { a: &a, b: &b, scale: 0.5 });
                let projection = Projection { weight: &weight, bias: Some(&bias), lora, arithmetic };
                let what = |part: &str| format!("{name} {arithmetic:?} {rows}x{inputs}x{outputs} {part}");
                near(&what("out"), &projection.forward(&x).unwrap(), &out, tolerance);
                let made = projection.backward(&x, &g, Wanted { x: true, weight: true }).unwrap();
                let (da, db) = made.lora.unwrap();
                let all = [made.x.unwrap(), made.weight.unwrap(), made.bias.unwrap(), da, db];
                for ((name, made), expected) in ["x", "weight", "bias", "a", "b"].iter().zip(&all).zip(&grads)
                {
                    near(&what(name), made, expected, tolerance);
                }
                let frozen = projection.backward(&x, &g, Wanted { x: false, weight: false }).unwrap();
                assert!(frozen.x.is_none() && frozen.weight.is_none() && frozen.bias.is_none());
            }
        }
    }
}

/// Blocks of a weight and what they stand for.
fn blocks(format: BlockFormat, outputs: usize, inputs: usize) -> (Vec<u8>, Tensor) {
    let noise: Vec<f64> = flat(&random(9, &[outputs * inputs / 32, 34]));
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for block in noise.chunks_exact(34) {
        let half = |x: f64| half::f16::from_f64(x);
        let (d, m) = (half(block[0] * 0.1), half(block[1]));
        bytes.extend(d.to_le_bytes());
        let (d, least) = (d.to_f32(), m.to_f32());
        if format == BlockFormat::Q8_0 {
            for q in block[2..].iter().map(|v| (v * 127.0) as i8) {
                bytes.push(q as u8);
                values.push(d * f32::from(q));
            }
            continue;
        }
        let shifted = format == BlockFormat::Q4_0;
        if !shifted {
            bytes.extend(m.to_le_bytes());
        }
        let q: Vec<u8> = block[2..].iter().map(|v| ((v + 1.0) * 7.9) as u8 & 15).collect();
        bytes.extend((0..16).map(|i| q[i] | q[i + 16] << 4));
        let value = |q: u8| if shifted { d * (f32::from(q) - 8.0) } else { d * f32::from(q) + least };
        values.extend(q.into_iter().map(value));
    }
    (bytes, Tensor::from_vec(values, (outputs, inputs), &Device::Cpu).unwrap())
}

#[test]
fn quantised_weights_multiply_like_the_numbers_they_stand_for() {
    let (outputs, inputs) = (70, 1120);
    for format in [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4_1] {
        let (bytes, dense) = blocks(format, outputs, inputs);
        let quantised = Weight::quantised(outputs, inputs, format, bytes).unwrap();
        let (x, g) = (random(1, &[19, inputs]), random(2, &[19, outputs]));
        for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
            let frozen = Weight::frozen(&dense, arithmetic).unwrap();
            let run = |weight: &Weight| {
                let p = Projection { weight, bias: None, lora: None, arithmetic };
                let dx = p.backward(&x, &g, Wanted { x: true, weight: false }).unwrap().x.unwrap();
                (flat(&p.forward(&x).unwrap()), flat(&dx))
            };
            assert!(run(&quantised) == run(&frozen), "{format:?} {arithmetic:?}");
        }
        let rows = dense.index_select(&Tensor::new(&[3u32, 69], &Device::Cpu).unwrap(), 0).unwrap();
        assert_eq!(flat(&quantised.rows(&[3, 69]).unwrap()), flat(&rows));
    }
}

#[test]
fn norm_rotation_and_gate_have_the_gradients_of_plain_ones() {
    let (x, w, g) = (random(1, &[40, 83]), random(2, &[83]), random(3, &[40, 83]));
    let (out, grads) = plain(&[&x, &w], &g, |t| {
        let mean = (t[0].sqr()?.sum_keepdim(1)? / 83.0)?;
        t[0].broadcast_div(&(mean + 1e-5)?.sqrt()?)?.broadcast_mul(&t[1])
    });
    near("norm", &rms_norm(&x, &w, 1e-5).unwrap(), &out, 1e-6);
    let (dx, dw) = rms_norm_backward(&x, &w, &g, 1e-5).unwrap();
    near("norm x", &dx, &grads[0], 2e-6);
    near("norm weight", &dw, &grads[1], 2e-6);

    let (gate, up, g) = (random(4, &[31, 77]), random(5, &[31, 77]), random(6, &[31, 77]));
    let gate = (gate * 8.0).unwrap();
    let (out, grads) = plain(&[&gate, &up], &g, |t| &t[1] * (&t[0] / ((&t[0] * -1.0)?.exp()? + 1.0)?)?);
    near("swiglu", &swiglu(&gate, &up).unwrap(), &out, 2e-6);
    let (dg, du) = swiglu_backward(&gate, &up, &g).unwrap();
    near("swiglu gate", &dg, &grads[0], 2e-6);
    near("swiglu up", &du, &grads[1], 2e-6);

    // Two heads of 10, of which 8 dimensions turn.
    let (tokens, half) = (9, 4);
    let frequencies: Vec<f32> = (0..half).map(|i| 1.0 / (1.0 + i as f32)).collect();
    let table = RotaryTable::new((0..tokens).map(|p| (frequencies.as_slice(), 3 * p)), half, 1.25);
    let (x, g) = (random(7, &[tokens, 20]), random(8, &[tokens, 20]));
    let angle = |f: fn(f64) -> f64| {
        let v: Vec<f64> = (0..tokens)
            .flat_map(|p| frequencies.iter().map(move |w| 1.25 * f(f64::from((3 * p) as f32 * w))))
            .collect();
        Tensor::from_vec(v, (tokens, 1, half), &Device::Cpu).unwrap()
    };
    let (cos, sin) = (angle(f64::cos), angle(f64::sin));
    let (out, grads) = plain(&[&x], &g, |t| {
        let x = t[0].reshape((tokens, 2, 10))?;
        let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second, x.narrow(2, 8, 2)?], 2)?.reshape((tokens, 20))
    });
    near("rope", &rope(&x, &table, 10).unwrap(), &out, 1e-6);
    near("rope x", &rope_backward(&g, &table, 10).unwrap(), &grads[0], 1e-6);
}

fn segment(rows: Range<usize>, prefix: Range<usize>) -> AttentionSegment {
    AttentionSegment { rows, prefix }
}

#[test]
fn attention_by_blocks_is_attention() {
    // Ragged sequences, tiles and blocks cut in all places, a shared prompt, windows, grouped heads, odd widths.
    let ragged = vec![segment(0..1, 0..0), segment(1..71, 0..0), segment(71..400, 0..0)];
    let shared = vec![segment(0..300, 0..0), segment(300..367, 0..300), segment(367..400, 0..300)];
    for (segments, window, heads, kv_heads, dim) in [
        (ragged.clone(), None, 4, 2, 16),
        (ragged, Some(50), 3, 1, 20),
        (shared.clone(), None, 2, 2, 64),
        (shared, Some(270), 2, 1, 33),
    ] {
        let segments = Arc::new(segments);
        let arithmetic = Arithmetic::F32;
        let attention = FlashAttention { heads, kv_heads, head_dim: dim, window, segments, arithmetic };
        let (q, g) = (random(1, &[400, heads * dim]), random(2, &[400, heads * dim]));
        let (k, v) = (random(3, &[400, kv_heads * dim]), random(4, &[400, kv_heads * dim]));
        let q = (q * 3.0).unwrap();
        let (out, grads) = plain(&[&q, &k, &v], &g, |t| attention.composed(&t[0], &t[1], &t[2]));
        for (arithmetic, tolerance) in BOTH {
            let attention = FlashAttention { arithmetic, ..attention.clone() };
            let done = attention.forward(&q, &k, &v).unwrap();
            let what = |part: &str| format!("{arithmetic:?} {window:?} {heads}/{kv_heads}x{dim} {part}");
            near(&what("out"), &done.out, &out, 2.0 * tolerance);
            let made = attention.backward(&q, &k, &v, &done, &g).unwrap();
            for ((name, made), expected) in ["q", "k", "v"].iter().zip(&made).zip(&grads) {
                near(&what(name), made, expected, 2.0 * tolerance);
            }
        }
    }
}

#[test]
fn the_head_gives_log_probabilities_and_gradients_without_all_logits() {
    let (width, vocabulary) = (24, 60_001);
    let rows = Head::rows_at_once(vocabulary) + 5;
    let h = random(1, &[rows, width]);
    let w = (random(2, &[vocabulary, width]) * 2.0).unwrap();
    let targets: Vec<u32> = (0..rows as u32).map(|i| i * 97 % vocabulary as u32).collect();
    let ids = Tensor::new(targets.as_slice(), &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    let up = random(3, &[rows, 2]);
    let (out, grads) = plain(&[&h, &w], &up, |t| {
        let logits = t[0].matmul(&t[1].t()?)?;
        let log_sum = logits.log_sum_exp(1)?.unsqueeze(1)?;
        let mean = (logits.sum_keepdim(1)? / vocabulary as f64)?;
        Tensor::cat(&[(logits.gather(&ids, 1)? - &log_sum)?, (mean - &log_sum)?], 1)
    });
    // log Σ p².
    let logits = wide(&h).matmul(&wide(&w).t().unwrap()).unwrap();
    let log_p = logits.broadcast_sub(&logits.log_sum_exp(1).unwrap().unsqueeze(1).unwrap()).unwrap();
    let squares = (log_p * 2.0).unwrap().log_sum_exp(1).unwrap();
    let up = up.to_vec2::<f32>().unwrap();
    let gradient = |row: usize, _: &TokenLogProbs| TokenGradient { target: up[row][0], mean: up[row][1] };
    for (arithmetic, tolerance) in BOTH {
        let variable = Var::from_tensor(&w).unwrap();
        let weight = Weight::moving(variable.as_tensor()).unwrap();
        let head = Head { weight: &weight, arithmetic, statistics: true };
        let mut dw = vec![0f32; vocabulary * width];
        let made = head.backward(&h, &targets, &gradient, Some(&mut dw)).unwrap();
        let of =
            |f: &dyn Fn(&TokenLogProbs) -> Vec<f32>| made.tokens.iter().flat_map(f).collect::<Vec<f32>>();
        let found = Tensor::from_vec(of(&|t| vec![t.target, t.mean]), (rows, 2), &Device::Cpu).unwrap();
        near("log-probs", &found, &out, tolerance);
        let found = Tensor::from_vec(of(&|t| vec![t.square_sum]), rows, &Device::Cpu).unwrap();
        near("square sums", &found, &squares, tolerance);
        // A sum over the vocabulary of numbers that nearly cancel.
        near("hidden", &made.hidden, &grads[0], tolerance.max(5e-5));
        near(
            "weight",
            &Tensor::from_vec(dw, (vocabulary, width), &Device::Cpu).unwrap(),
            &grads[1],
            tolerance,
        );
        assert_eq!(head.forward(&h, &targets).unwrap(), made.tokens);
    }
    let unpacked = Weight::unpacked(&w).unwrap();
    let head = Head { weight: &unpacked, arithmetic: Arithmetic::F32, statistics: true };
    near("composed", &head.backward(&h, &targets, &gradient, None).unwrap().hidden, &grads[0], 5e-5);
}

/// Bits of everything the kernels compute, forward and backward.
fn fingerprint(arithmetic: Arithmetic) -> Vec<u32> {
    let (rows, inputs, outputs) = (600, 200, 300);
    let (x, w, g) = (random(1, &[rows, inputs]), random(2, &[outputs, inputs]), random(3, &[rows, outputs]));
    let (a, b) = (random(4, &[8, inputs]), random(5, &[outputs, 8]));
    let weight = Weight::frozen(&w, arithmetic).unwrap();
    let lora = Some(LoraFactors { a: &a, b: &b, scale: 2.0 });
    let projection = Projection { weight: &weight, bias: None, lora, arithmetic };
    let mut all = vec![projection.forward(&x).unwrap()];
    let made = projection.backward(&x, &g, Wanted { x: true, weight: true }).unwrap();
    let (da, db) = made.lora.unwrap();
    all.extend([made.x.unwrap(), made.weight.unwrap(), da, db]);
    let segments = vec![segment(0..200, 0..0), segment(200..450, 0..200), segment(450..600, 0..200)];
    let segments = Arc::new(segments);
    let attention =
        FlashAttention { heads: 6, kv_heads: 3, head_dim: 32, window: None, segments, arithmetic };
    let (q, k, v) = (random(6, &[600, 192]), random(7, &[600, 96]), random(8, &[600, 96]));
    let done = attention.forward(&q, &k, &v).unwrap();
    all.extend(attention.backward(&q, &k, &v, &done, &q).unwrap());
    all.push(done.out);
    let head = Head { weight: &weight, arithmetic, statistics: false };
    let targets: Vec<u32> = (0..600).map(|i| i % 300).collect();
    let gradient = |_: usize, _: &TokenLogProbs| TokenGradient { target: -0.5, mean: 0.0 };
    all.push(head.backward(&x, &targets, &gradient, None).unwrap().hidden);
    let (dx, dw) = rms_norm_backward(&x, &random(9, &[200]), &x, 1e-5).unwrap();
    all.extend([dx, dw]);
    all.iter().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).map(f32::to_bits).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fingerprint(arithmetic))
        };
        let one = run(1);
        assert!(one == run(2) && one == run(5), "{arithmetic:?}");
    }
}

#[test]
fn every_instruction_set_computes_the_same() {
    const CHILD: &str = "CYCLE_KERNELS_CHILD";
    if std::env::var_os(CHILD).is_some() {
        for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
            let bits = fingerprint(arithmetic);
            let sum = |c: &[u32]| c.iter().map(|b| f64::from(f32::from_bits(*b))).sum::<f64>();
            let sums: Vec<f64> = bits.chunks(1000).map(sum).collect();
            let step = |h: u64, b: &u32| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
            let hash = bits.iter().fold(0xcbf2_9ce4_8422_2325, step);
            println!("CHILD {hash} {}", serde_json::to_string(&sums).unwrap());
        }
        return;
    }
    let run = |level: &str| -> Vec<(String, Vec<f64>)> {
        let out = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["every_instruction_set_computes_the_same", "--exact", "--nocapture"])
            .env(CHILD, "1")
            .env("CYCLE_CPU", level)
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout)
            .lines()
            .filter_map(|l| l.split_once("CHILD ")?.1.split_once(' '))
            .map(|(hash, sums)| (hash.to_string(), serde_json::from_str(sums).unwrap()))
            .collect()
    };
    let best = run("best");
    assert_eq!(best.len(), 2);
    for level in ["avx512", "avx2", "portable"] {
        let other = run(level);
        // f32: the same bits. bf16: each instruction adds pairs in an order of its own.
        assert_eq!(other[0].0, best[0].0, "{level}");
        for (a, b) in other[1].1.iter().zip(&best[1].1) {
            assert!((a - b).abs() < 1e-2 * (1.0 + b.abs()), "{level}: {a} for {b}");
        }
    }
}
