#!/usr/bin/env bash
# Builds `cycle` with CUDA on a machine that need not have a GPU, a driver or a toolkit.
#
#   crates/kernels/cuda/build.sh            toolkit from PyPI (about 0.5 GB below target/cuda), then a release build
#   crates/kernels/cuda/build.sh --check    type-check only, with a stand-in for nvcc: no toolkit, minutes
#
# CUDA_COMPUTE_CAP (default 80) is the architecture the quantised kernels are compiled for; set 90 for Hopper.
#
# candle links the driver and the maths libraries at build time, so a plain binary does not even start where they are
# missing. Shims with the same symbols look the real libraries up at run time and answer with an error code where there
# are none: one binary serves both kinds of machine, and falls back to the CPU.
set -euo pipefail
cd "$(dirname "$0")/../../.."
work=$PWD/target/cuda
mkdir -p "$work"
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80} CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-1}

if [ "${1:-}" = --check ]; then
    # Answers what the build script asks of nvcc and leaves empty files where it expects output.
    cat >"$work/nvcc" <<'NVCC'
#!/usr/bin/env bash
case " $* " in
    *" --version "*) echo "Cuda compilation tools, release 13.0, V13.0.88"; exit 0 ;;
    *" --list-gpu-code "*) printf 'sm_80\nsm_86\nsm_89\nsm_90\n'; exit 0 ;;
esac
dir=.
while [ $# -gt 0 ]; do
    case "$1" in
        -o) shift; : >"$1" ;;
        --output-directory) shift; dir=$1 ;;
        *.cu) : >"$dir/$(basename "${1%.cu}").ptx" ;;
    esac
    shift
done
NVCC
    chmod +x "$work/nvcc"
    mkdir -p "$work/empty/include" "$work/empty/bin"
    cp "$work/nvcc" "$work/empty/bin/nvcc"
    NVCC=$work/nvcc CUDA_HOME=$work/empty CUDARC_CUDA_VERSION=13000 PATH=$work/empty/bin:$PATH \
        cargo check --features cuda -p cli
    exit
fi

pip install --quiet --no-deps --upgrade --target "$work/toolkit" \
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-nvrtc==13.0.88
export CUDA_HOME=$work/toolkit/nvidia/cu13
export PATH=$CUDA_HOME/bin:$PATH

cargo fetch --quiet
cudarc=$(cargo metadata --format-version 1 --features cuda | tr ',' '\n' \
    | sed -n 's/.*"manifest_path":"\(.*cudarc-[^"]*\)\/Cargo.toml".*/\1/p' | head -1)

# shim NAME MODULE SONAME ERROR: every function that cudarc's MODULE declares, resolved at start by dlopen(SONAME).
shim() {
    local name=$1 module=$2 soname=$3 error=$4 functions
    functions=$(grep -oE '\bfn (cu|nvrtc)[A-Za-z0-9_]*' "$cudarc/src/$module/sys/mod.rs" | cut -c4- | sort -u | grep -v '^culib$')
    {
        printf '#include <dlfcn.h>\n#include <stddef.h>\nstatic int missing(void) { return %s; }\n' "$error"
        printf 'static const char *const names[] = {\n'
        printf '    "%s",\n' $functions
        printf '    NULL};\nvoid *cycle_shim_%s[%d];\n' "$name" "$(wc -w <<<"$functions")"
        printf '__attribute__((constructor)) static void resolve(void) {\n'
        printf '    void *library = dlopen("%s", RTLD_NOW | RTLD_GLOBAL);\n' "$soname"
        printf '    for (int i = 0; names[i]; i++) {\n        void *found = library ? dlsym(library, names[i]) : NULL;\n'
        printf '        cycle_shim_%s[i] = found ? found : (void *)missing;\n    }\n}\n' "$name"
        local i=0 f
        for f in $functions; do
            printf '__attribute__((naked)) void %s(void) { __asm__("jmp *cycle_shim_%s+%d(%%rip)"); }\n' "$f" "$name" $((8 * i))
            i=$((i + 1))
        done
    } >"$work/$name.c"
    gcc -O1 -fPIC -c "$work/$name.c" -o "$work/$name.o"
    rm -f "$work/shims/lib$name.a"
    ar rcs "$work/shims/lib$name.a" "$work/$name.o"
}
mkdir -p "$work/shims"
shim cuda driver libcuda.so.1 100
shim cublas cublas libcublas.so.13 1
shim cublasLt cublaslt libcublasLt.so.13 1
shim curand curand libcurand.so.10 203
shim nvrtc nvrtc libnvrtc.so.13 5
cp "$CUDA_HOME/lib/libcudart_static.a" "$work/shims/libcudart.a"

RUSTFLAGS="${RUSTFLAGS:-} -L native=$work/shims" cargo build --release --features cuda -p cli
echo "built target/release/cycle; CUDA libraries it needs at start (none expected):"
ldd target/release/cycle | grep -E 'libcu|libnv' || echo "none"
