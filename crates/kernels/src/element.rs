//! The two number types a training product is computed in: f32, and bf16 with sums in f32.
//!
//! A panel is a strip of 32 columns of the right operand. In f32 it is `[depth, 32]`; in bf16 two depths lie side by side,
//! `[depth / 2, 32, 2]`, as the processor's dot product of pairs wants them (`vdpbf16ps`).

use std::sync::OnceLock;

use half::bf16;

use crate::pack::{PANEL, rows_times_panel};
use crate::simd::{Lanes, Level, dispatch};

/// Rows of the largest tile of any kind.
pub(crate) const MOST_ROWS: usize = 32;
/// Rows of a tile whose sums stay in vector registers.
const VECTOR_ROWS: usize = 12;

/// A number type of the operands; sums are f32.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// Depths that lie side by side in a panel; operands are padded to a multiple of it with zeros.
    const STEP: usize;

    /// `x` in this type, at the start of `out`.
    fn convert(x: &[f32], out: &mut [Self]);

    /// Packs up to 32 columns of a row-major `[depth, columns]` matrix with row stride `stride` into a panel.
    fn pack_rows(source: &[f32], stride: usize, depth: usize, columns: usize, panel: &mut [Self]);

    /// Packs up to 32 rows of a row-major `[columns, depth]` matrix with row stride `stride` into a panel: its transpose.
    fn pack_columns(source: &[f32], stride: usize, depth: usize, columns: usize, panel: &mut [Self]);

    /// Rows of the largest tile here, at most [`MOST_ROWS`].
    fn tile_rows() -> usize {
        VECTOR_ROWS
    }

    /// `c += a · panel` for `m` rows (at most [`Self::tile_rows`]) and 32 columns.
    ///
    /// # Safety
    /// `a` is `[m, depth]` with row stride `lda`, `panel` holds `depth` depths, `c` is `[m, 32]` with row stride `ldc`;
    /// `depth` is a multiple of [`Self::STEP`].
    unsafe fn tile(
        m: usize,
        depth: usize,
        a: *const Self,
        lda: usize,
        panel: *const Self,
        c: *mut f32,
        ldc: usize,
    );
}

/// `depth` rounded up to whole steps.
pub(crate) fn padded<E: Element>(depth: usize) -> usize {
    depth.div_ceil(E::STEP) * E::STEP
}

/// Rows of f32 as a left operand: `[rows, padded(depth)]`.
pub(crate) fn left<E: Element>(x: &[f32], rows: usize, depth: usize) -> Vec<E> {
    use rayon::prelude::*;
    let stride = padded::<E>(depth);
    let mut out = vec![E::default(); rows * stride];
    if depth > 0 {
        const CHUNK: usize = 32;
        out.par_chunks_mut(CHUNK * stride).zip(x.par_chunks(CHUNK * depth)).for_each(|(out, x)| {
            if stride == depth {
                return E::convert(x, out);
            }
            for (out, x) in out.chunks_exact_mut(stride).zip(x.chunks_exact(depth)) {
                E::convert(x, out);
            }
        });
    }
    out
}

dispatch! {
    fn tile_f32 = tile_f32_body(
        m: usize, depth: usize, a: *const f32, lda: usize, panel: *const f32, c: *mut f32, ldc: usize,
    )
}

/// SAFETY: the contract of `Element::tile`.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn tile_f32_body<L: Lanes>(
    m: usize,
    depth: usize,
    a: *const f32,
    lda: usize,
    panel: *const f32,
    c: *mut f32,
    ldc: usize,
) {
    let mut row = 0;
    while row < m {
        let rows = L::ROWS.min(m - row);
        // SAFETY: rows row..row+rows are inside the tile.
        unsafe {
            let (a, c) = (a.add(row * lda), c.add(row * ldc));
            rows_times_panel::<L, f32>(rows, a, lda, panel, PANEL, depth, c, ldc, |p| L::load(p));
        }
        row += rows;
    }
}

impl Element for f32 {
    const STEP: usize = 1;

    fn convert(x: &[f32], out: &mut [Self]) {
        out[..x.len()].copy_from_slice(x);
    }

    fn pack_rows(source: &[f32], stride: usize, depth: usize, columns: usize, panel: &mut [Self]) {
        for (k, row) in panel.chunks_exact_mut(PANEL).take(depth).enumerate() {
            row[..columns].copy_from_slice(&source[k * stride..][..columns]);
            row[columns..].fill(0.0);
        }
    }

    fn pack_columns(source: &[f32], stride: usize, depth: usize, columns: usize, panel: &mut [Self]) {
        if columns < PANEL {
            panel[..depth * PANEL].fill(0.0);
        }
        // Sixteen depths at a time: reads and writes both stay within a few cache lines.
        for from in (0..depth).step_by(16) {
            let to = (from + 16).min(depth);
            for j in 0..columns {
                for (k, &x) in (from..to).zip(&source[j * stride + from..j * stride + to]) {
                    panel[k * PANEL + j] = x;
                }
            }
        }
    }

    unsafe fn tile(
        m: usize,
        depth: usize,
        a: *const Self,
        lda: usize,
        panel: *const Self,
        c: *mut f32,
        ldc: usize,
    ) {
        tile_f32(m, depth, a, lda, panel, c, ldc);
    }
}

/// Nearest, ties to even; NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { (bits >> 16) as u16 | 0x40 } else { rounded }
}

dispatch! { fn convert_bf16 = convert_bf16_body(x: &[f32], out: &mut [bf16]) }
dispatch! { fn pack_rows_bf16 = pack_rows_bf16_body(source: &[f32], stride: usize, depth: usize, columns: usize, panel: &mut [bf16]) }
dispatch! { fn pack_columns_bf16 = pack_columns_bf16_body(source: &[f32], stride: usize, depth: usize, columns: usize, panel: &mut [bf16]) }

/// SAFETY: safe code; `unsafe` only for the dispatcher's sake.
#[inline(always)]
unsafe fn convert_bf16_body<L: Lanes>(x: &[f32], out: &mut [bf16]) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o = bf16::from_bits(round(x));
    }
}

/// SAFETY: as above.
#[inline(always)]
unsafe fn pack_rows_bf16_body<L: Lanes>(
    source: &[f32],
    stride: usize,
    depth: usize,
    columns: usize,
    panel: &mut [bf16],
) {
    for (k, pairs) in panel.chunks_exact_mut(2 * PANEL).take(depth.div_ceil(2)).enumerate() {
        let first = &source[2 * k * stride..][..columns];
        if columns < PANEL {
            pairs.fill(bf16::ZERO);
        }
        if 2 * k + 1 < depth {
            let second = &source[(2 * k + 1) * stride..][..columns];
            for ((pair, &a), &b) in pairs.chunks_exact_mut(2).zip(first).zip(second) {
                pair[0] = bf16::from_bits(round(a));
                pair[1] = bf16::from_bits(round(b));
            }
        } else {
            for (pair, &a) in pairs.chunks_exact_mut(2).zip(first) {
                pair[0] = bf16::from_bits(round(a));
                pair[1] = bf16::ZERO;
            }
        }
    }
}

/// SAFETY: as above.
#[inline(always)]
unsafe fn pack_columns_bf16_body<L: Lanes>(
    source: &[f32],
    stride: usize,
    depth: usize,
    columns: usize,
    panel: &mut [bf16],
) {
    if columns < PANEL || depth % 2 == 1 {
        panel[..depth.div_ceil(2) * 2 * PANEL].fill(bf16::ZERO);
    }
    for from in (0..depth).step_by(32) {
        let to = (from + 32).min(depth);
        for j in 0..columns {
            for (pair, x) in source[j * stride + from..j * stride + to].chunks(2).enumerate() {
                let at = ((from / 2 + pair) * PANEL + j) * 2;
                panel[at] = bf16::from_bits(round(x[0]));
                if let Some(&x) = x.get(1) {
                    panel[at + 1] = bf16::from_bits(round(x));
                }
            }
        }
    }
}

/// How products of bf16 pairs are computed here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pairs {
    /// The matrix unit.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// `vdpbf16ps`.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Widened to f32, AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Widened to f32, plain Rust.
    Portable,
}

impl Pairs {
    fn current() -> Self {
        static PAIRS: OnceLock<Pairs> = OnceLock::new();
        *PAIRS.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            {
                // `CYCLE_CPU=avx512` is for tests of the vector unit.
                if Level::current() == Level::Avx512
                    && std::env::var_os("CYCLE_CPU").is_none_or(|level| level != "avx512")
                    && crate::amx::is_granted()
                {
                    return Self::Amx;
                }
                if Level::current() == Level::Avx512 && is_x86_feature_detected!("avx512bf16") {
                    return Self::Avx512;
                }
                if Level::current() >= Level::Avx2 {
                    return Self::Avx2;
                }
            }
            Self::Portable
        })
    }
}

/// True where bf16 products run on the processor's own instruction for them.
pub fn has_bf16_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return matches!(Pairs::current(), Pairs::Amx | Pairs::Avx512);
    #[cfg(not(target_arch = "x86_64"))]
    false
}

impl Element for bf16 {
    const STEP: usize = 2;

    fn convert(x: &[f32], out: &mut [Self]) {
        convert_bf16(x, out);
    }

    fn pack_rows(source: &[f32], stride: usize, depth: usize, columns: usize, panel: &mut [Self]) {
        pack_rows_bf16(source, stride, depth, columns, panel);
    }

    fn pack_columns(source: &[f32], stride: usize, depth: usize, columns: usize, panel: &mut [Self]) {
        pack_columns_bf16(source, stride, depth, columns, panel);
    }

    fn tile_rows() -> usize {
        match Pairs::current() {
            #[cfg(target_arch = "x86_64")]
            Pairs::Amx => crate::amx::ROWS,
            _ => VECTOR_ROWS,
        }
    }

    unsafe fn tile(
        m: usize,
        depth: usize,
        a: *const Self,
        lda: usize,
        panel: *const Self,
        c: *mut f32,
        ldc: usize,
    ) {
        match Pairs::current() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: by this function's contract; the unit is there and granted.
            Pairs::Amx => unsafe { crate::amx::tile(m, depth, a.cast(), lda, panel.cast(), c, ldc) },
            #[cfg(target_arch = "x86_64")]
            Pairs::Avx512 => {
                use x86::avx512 as f;
                macro_rules! at { ($($m:literal)*) => { match m {
                    // SAFETY: by this function's contract; the instruction set was detected.
                    $($m => unsafe { f::<$m>(depth, a.cast(), lda, panel.cast(), c, ldc) },)*
                    _ => unreachable!("a tile has 1 to 12 rows"),
                } } }
                at!(1 2 3 4 5 6 7 8 9 10 11 12)
            }
            #[cfg(target_arch = "x86_64")]
            Pairs::Avx2 => {
                // SAFETY: by this function's contract; the instruction set was detected.
                unsafe { x86::avx2(m, depth, a.cast(), lda, panel.cast(), c, ldc) }
            }
            // SAFETY: by this function's contract.
            Pairs::Portable => unsafe { portable(m, depth, a.cast(), lda, panel.cast(), c, ldc) },
        }
    }
}

/// SAFETY: the contract of `Element::tile`.
unsafe fn portable(
    m: usize,
    depth: usize,
    a: *const u16,
    lda: usize,
    panel: *const u16,
    c: *mut f32,
    ldc: usize,
) {
    let wide = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    for i in 0..m {
        for j in 0..PANEL {
            // SAFETY: inside the operands by the contract.
            unsafe {
                let at = c.add(i * ldc + j);
                let mut sum = *at;
                for k in 0..depth {
                    let b = wide(*panel.add((k / 2 * PANEL + j) * 2 + k % 2));
                    sum = wide(*a.add(i * lda + k)).mul_add(b, sum);
                }
                *at = sum;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::PANEL;

    /// SAFETY: the contract of `Element::tile`; AVX-512 BF16 is present.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) unsafe fn avx512<const M: usize>(
        depth: usize,
        a: *const u16,
        lda: usize,
        panel: *const u16,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: inside the operands by the contract; both types are 64 bytes.
        unsafe {
            let mut low: [__m512; M] = std::array::from_fn(|i| _mm512_loadu_ps(c.add(i * ldc)));
            let mut high: [__m512; M] = std::array::from_fn(|i| _mm512_loadu_ps(c.add(i * ldc + 16)));
            for k in 0..depth / 2 {
                let b0: __m512bh = std::mem::transmute(_mm512_loadu_si512(panel.add(k * 2 * PANEL).cast()));
                let b1: __m512bh =
                    std::mem::transmute(_mm512_loadu_si512(panel.add(k * 2 * PANEL + PANEL).cast()));
                for i in 0..M {
                    let pair = a.add(i * lda + 2 * k).cast::<i32>().read_unaligned();
                    let x: __m512bh = std::mem::transmute(_mm512_set1_epi32(pair));
                    low[i] = _mm512_dpbf16_ps(low[i], x, b0);
                    high[i] = _mm512_dpbf16_ps(high[i], x, b1);
                }
            }
            for i in 0..M {
                _mm512_storeu_ps(c.add(i * ldc), low[i]);
                _mm512_storeu_ps(c.add(i * ldc + 16), high[i]);
            }
        }
    }

    /// SAFETY: the contract of `Element::tile`; AVX2 and FMA are present.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(
        m: usize,
        depth: usize,
        a: *const u16,
        lda: usize,
        panel: *const u16,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: inside the operands by the contract.
        unsafe {
            let mask = _mm256_set1_epi32(0xffff_0000u32 as i32);
            for i in 0..m {
                let mut sums: [__m256; 4] = std::array::from_fn(|j| _mm256_loadu_ps(c.add(i * ldc + 8 * j)));
                for k in 0..depth / 2 {
                    let pair = a.add(i * lda + 2 * k).cast::<u32>().read_unaligned();
                    let first = _mm256_castsi256_ps(_mm256_set1_epi32((pair << 16) as i32));
                    let second = _mm256_castsi256_ps(_mm256_set1_epi32((pair & 0xffff_0000) as i32));
                    for (j, sum) in sums.iter_mut().enumerate() {
                        let b = _mm256_loadu_si256(panel.add(k * 2 * PANEL + 16 * j).cast());
                        let even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b));
                        let odd = _mm256_castsi256_ps(_mm256_and_si256(b, mask));
                        *sum = _mm256_fmadd_ps(second, odd, _mm256_fmadd_ps(first, even, *sum));
                    }
                }
                for (j, sum) in sums.iter().enumerate() {
                    _mm256_storeu_ps(c.add(i * ldc + 8 * j), *sum);
                }
            }
        }
    }
}
