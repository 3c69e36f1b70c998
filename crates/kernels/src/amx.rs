//! Products of bf16 pairs in the matrix unit of Intel's servers (AMX): 32 rows and 32 columns at a time.
//!
//! The instructions are written as assembly because their intrinsics are not stable. Operands lie as `vdpbf16ps` wants
//! them: a panel `[depth / 2, 32, 2]` is two tiles of 16 columns side by side. Each output element is one chain over
//! blocks of 32 depths; denormal numbers count as zero, as in `vdpbf16ps`.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::mem::MaybeUninit;

use crate::pack::PANEL;

/// Rows of the largest product.
pub(crate) const ROWS: usize = 32;
/// Depths of one step.
const DEPTH: usize = 32;

/// Asks the processor whether it has the unit, and the system for leave to use it (for all threads of this process).
pub(crate) fn is_granted() -> bool {
    // Leaf 7, edx: bit 22 is AMX-BF16, bit 24 AMX-TILE.
    let features = __cpuid_count(7, 0).edx;
    if features >> 22 & 1 == 0 || features >> 24 & 1 == 0 {
        return false;
    }
    if !cfg!(target_os = "linux") {
        return false;
    }
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let mut answer = ARCH_PRCTL;
    // SAFETY: a system call that takes two numbers and touches no memory; the kernel destroys rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inout("rax") answer,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

/// What the assembly reads: the shapes of the tiles, then the last step's operands.
#[repr(C, align(64))]
struct Plan {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, of each tile.
    row_bytes: [u16; 16],
    /// Rows of each tile.
    rows: [u8; 16],
    rest_left: *const u16,
    rest_panel: *const u16,
    rest: u64,
}

/// `c += a · panel` for `m` rows (at most 32) and 32 columns.
///
/// # Safety
/// The contract of `Element::tile`; [`is_granted`] said yes.
pub(crate) unsafe fn tile(
    m: usize,
    depth: usize,
    a: *const u16,
    lda: usize,
    panel: *const u16,
    c: *mut f32,
    ldc: usize,
) {
    debug_assert!((1..=ROWS).contains(&m));
    // What is left of the depth goes through buffers, filled up with zeros.
    let (whole, rest) = (depth / DEPTH, depth % DEPTH);
    let mut left = MaybeUninit::<[u16; ROWS * DEPTH]>::uninit();
    let mut right = MaybeUninit::<[u16; DEPTH * PANEL]>::uninit();
    if rest > 0 {
        let left = left.write([0; ROWS * DEPTH]);
        let right = right.write([0; DEPTH * PANEL]);
        for i in 0..m {
            // SAFETY: the last depths of row i of `a`.
            unsafe {
                let from = a.add(i * lda + whole * DEPTH);
                std::ptr::copy_nonoverlapping(from, left.as_mut_ptr().add(i * DEPTH), rest);
            }
        }
        // SAFETY: the last depths of the panel; they are even, so whole pairs.
        unsafe {
            let from = panel.add(whole * DEPTH * PANEL);
            std::ptr::copy_nonoverlapping(from, right.as_mut_ptr(), rest * PANEL);
        }
    }
    let (upper, lower) = (m.min(16) as u8, m.saturating_sub(16) as u8);
    let mut plan = Plan {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [0; 16],
        rows: [0; 16],
        rest_left: left.as_ptr().cast(),
        rest_panel: right.as_ptr().cast(),
        rest: u64::from(rest > 0),
    };
    // 0 to 3: sums of the upper and the lower rows; 4, 5: their left operands; 6, 7: the panel.
    for (tile, rows) in
        [(0, upper), (1, upper), (2, lower), (3, lower), (4, upper), (5, lower), (6, 16), (7, 16)]
    {
        plan.rows[tile] = rows;
        plan.row_bytes[tile] = if rows > 0 { 64 } else { 0 };
    }
    // Two blocks that differ in the lower rows alone. Offsets are bytes: a step of `a` is 64 of each row, one of the panel
    // 16 rows of 128; the buffer of `a`'s rest has rows of 64.
    macro_rules! product {
        ($load:literal, $left:literal, $multiply:literal, $store:literal) => {
            asm!(
                "ldtilecfg [{plan}]",
                "tileloadd tmm0, [{c} + {ldc}]",
                "tileloadd tmm1, [{c} + {ldc} + 64]",
                $load,
                "test {steps}, {steps}",
                "jz 3f",
                "2:",
                "tileloadd tmm6, [{panel} + {width}]",
                "tileloadd tmm7, [{panel} + {width} + 64]",
                "tileloadd tmm4, [{a} + {lda}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                $left,
                $multiply,
                "add {a}, 64",
                "add {below}, 64",
                "add {panel}, 2048",
                "dec {steps}",
                "jnz 2b",
                "3:",
                "cmp qword ptr [{plan} + 80], 0",
                "je 4f",
                "mov qword ptr [{plan} + 80], 0",
                "mov {a}, qword ptr [{plan} + 64]",
                "lea {below}, [{a} + 1024]",
                "mov {panel}, qword ptr [{plan} + 72]",
                "mov {lda}, 64",
                "mov {steps}, 1",
                "jmp 2b",
                "4:",
                "tilestored [{c} + {ldc}], tmm0",
                "tilestored [{c} + {ldc} + 64], tmm1",
                $store,
                "tilerelease",
                plan = in(reg) &raw mut plan,
                c = in(reg) c,
                bottom = in(reg) c.wrapping_add(16 * ldc),
                ldc = in(reg) ldc * 4,
                a = inout(reg) a => _,
                below = inout(reg) a.wrapping_add(16 * lda) => _,
                lda = inout(reg) lda * 2 => _,
                panel = inout(reg) panel => _,
                width = in(reg) 4 * PANEL,
                steps = inout(reg) whole => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            )
        };
    }
    // SAFETY: operands and result are inside their buffers by the contract; rows that are not there are in no tile.
    unsafe {
        if lower > 0 {
            product!(
                "tileloadd tmm2, [{bottom} + {ldc}]\ntileloadd tmm3, [{bottom} + {ldc} + 64]",
                "tileloadd tmm5, [{below} + {lda}]",
                "tdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7",
                "tilestored [{bottom} + {ldc}], tmm2\ntilestored [{bottom} + {ldc} + 64], tmm3"
            );
        } else {
            product!("/* {bottom} */", "", "", "");
        }
    }
}
