"""What cars don't run is refused before it is compiled, by name; what jax.export writes for one device is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from jax import export, lax
from jax._src.export import _export

from fleet.protocol.errors import ProgramRefused, from_code
from fleet.protocol.limits import MIB
from runtime.sandbox import jax_audit, jax_calls, jax_kernels
from tests.sandbox.jax_forge import ALL, F32, MODULE, flat, head_of, main, packed, spec, with_module

MEMORY_BYTES = 256 * MIB


@pytest.fixture(scope="module")
def base() -> export.Exported:
    """The envelope that forged modules are put into."""
    return flat(lambda x: x, spec(8, 8))


@pytest.fixture
def no_compile() -> Iterator[None]:
    """Nothing is compiled while this test runs."""
    compiled: list[str] = []

    def heard(event: str, *_: Any, **__: Any) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(heard)
    yield
    jax.monitoring.unregister_event_duration_listener(heard)
    assert not compiled


def audit(data: bytes, head: dict[str, Any], memory_bytes: int = MEMORY_BYTES) -> jax_audit.Audited:
    return jax_audit.audit(data, head, 0, memory_bytes)


def check(function: Any, *specs: Any, platforms: tuple[str, ...] = ALL) -> jax_audit.Audited:
    exported = flat(function, *specs, platforms=platforms)
    return audit(packed(exported), head_of(exported))


# --- what jax writes ---

A, V, B, C = spec(8, 8), spec(8), spec(4, 8, 8), spec(8, 8, dtype=np.complex64)
KEY = spec(2, dtype=np.uint32)


def _random(draw: Any) -> Any:
    return lambda key, *args: draw(jax.random.wrap_key_data(key), *args)


def _tridiagonal(a: Any, b: Any) -> Any:
    return lax.linalg.tridiagonal_solve(a, a, a, b)


EVERYWHERE = {
    "eigh": (jnp.linalg.eigh, A),
    "svd": (jnp.linalg.svd, spec(4, 6)),
    "svd, complex, thin": (lambda x: jnp.linalg.svd(x, full_matrices=False), C),
    "singular values": (lambda x: jnp.linalg.svd(x, compute_uv=False), B),
    "qr": (jnp.linalg.qr, spec(6, 4)),
    "qr, batched": (jnp.linalg.qr, B),
    "cholesky": (jnp.linalg.cholesky, A),
    "lu": (jsp.linalg.lu, A),
    "solve": (jnp.linalg.solve, A, V),
    "inverse, batched": (jnp.linalg.inv, B),
    "triangular": (jsp.linalg.solve_triangular, A, V),
    "tridiagonal": (_tridiagonal, V, spec(8, 2)),
    "reflectors": (lax.linalg.householder_product, A, V),
    "permutation": (lambda p: lax.linalg.lu_pivots_to_permutation(p, 8), spec(8, dtype=np.int32)),
    "fft": (jnp.fft.rfft2, A),
    "sort and top_k": (lambda x: (jnp.argsort(x), lax.top_k(x, 3)), A),
    "approx_top_k": (lambda x: lax.approx_max_k(x, 3), spec(4, 1000)),
    "threefry": (_random(lambda key: jax.random.normal(key, (16,))), KEY),
    "gamma": (_random(lambda key: jax.random.gamma(key, 2.0, (4,))), KEY),
    "bit generator": (
        lambda key: jax.random.normal(jax.random.wrap_key_data(key, impl="rbg"), (16,)),
        spec(4, dtype=np.uint32),
    ),
    "special functions": (lambda x: (jsp.special.erfinv(x), jsp.special.digamma(x), jnp.arcsinh(x), jnp.square(x)), V),
    "convolution": (lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME"), spec(1, 3, 8, 8), spec(4, 3, 3, 3)),
    "pooling": (jax.grad(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID").sum()), A),
    "loops": (lambda x: (lax.scan(lambda c, a: (c + a, c * a), jnp.zeros(8), x), lax.fori_loop(0, 5, jnp.add, x)), A),
    "branches": (lambda i, x: lax.switch(i, [jnp.sin, jnp.cos, jnp.tan], x), spec(dtype=np.int32), V),
    "gather and scatter": (lambda x, i: (x[i], x.at[i].add(1.0)), A, spec(3, dtype=np.int32)),
    "complex constant": (lambda x: x * jnp.array([1 + 2j, 3j], np.complex64), spec(2, dtype=np.complex64)),
    "small floats": (lambda x: (x.astype(jnp.bfloat16), x.astype(jnp.float8_e4m3fn), x.astype(jnp.int4)), V),
    "unused argument": (lambda x, y: x, V, V),
    "a row at a time": (lambda w, x: jnp.tanh(x @ w), A, spec("b", 8)),
    "approx_top_k of rows": (lambda x: lax.approx_max_k(x, 3), spec("b", 1000)),
    "cholesky of rows": (jnp.linalg.cholesky, spec("b", 8, 8)),
    "svd of rows": (jnp.linalg.svd, spec("b", 8, 8)),
    "lu of rows": (jsp.linalg.lu_factor, spec("b", 8, 8)),
    "window over rows": (lambda x: lax.cummax(x), spec("b", 8)),
    "random rows": (
        lambda key, x: jax.random.normal(jax.random.wrap_key_data(key, impl="rbg"), x.shape),
        spec(4, dtype=np.uint32),
        spec("b", 8),
    ),
    "two names": (lambda x: x.reshape(-1), spec("b, 2*c")),
}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_runs_for_three_platforms(name: str) -> None:
    function, *specs = EVERYWHERE[name]
    assert check(function, *specs).operations > 1


ALONE = {
    "eig, cpu": (jnp.linalg.eig, A, "cpu"),
    "eig, complex, cpu": (jnp.linalg.eig, C, "cpu"),
    "schur, cpu": (jsp.linalg.schur, A, "cpu"),
    "schur, complex, cpu": (jsp.linalg.schur, C, "cpu"),
    "hessenberg, cpu": (jsp.linalg.hessenberg, A, "cpu"),
    "tridiagonal, cpu": (lax.linalg.tridiagonal, A, "cpu"),
    "tridiagonal, cuda": (lax.linalg.tridiagonal, A, "cuda"),
    "svd of wide, cuda": (jnp.linalg.svd, spec(2000, 3000), "cuda"),
    "singular values of wide, cuda": (lambda x: jnp.linalg.svd(x, compute_uv=False), spec(2000, 3000), "cuda"),
    "eigenvalues of n by n, cpu": (jnp.linalg.eigvalsh, spec("n, n"), "cpu"),
}


@pytest.mark.parametrize("name", ALONE)
def test_runs_for_one_platform(name: str) -> None:
    function, argument, platform = ALONE[name]
    assert check(function, argument, platforms=(platform,)).operations > 1


def test_every_kernel_that_jax_promises_is_allowed_or_left_out_on_purpose() -> None:
    """The lists are ours; jax' own is private and may change."""
    promised = set(_export._CUSTOM_CALL_TARGETS_GUARANTEED_STABLE)
    assert promised == jax_calls.CALLS | jax_kernels.NOT_OURS
    assert not jax_calls.CALLS & jax_kernels.NOT_OURS


def test_what_was_checked_runs(base: export.Exported) -> None:
    exported = flat(lambda w, x: jnp.linalg.cholesky(x) @ w, spec(8, 8), spec("b", 8, 8), platforms=ALL)
    audited = audit(packed(exported), head_of(exported))
    x = np.stack([np.eye(8, dtype=F32) * n for n in (1, 4, 9)])
    lowered = jax.jit(audited.exported.call).lower(np.eye(8, dtype=F32), x)
    assert audited.again
    jax_audit.audit_lowered(audited, lowered)
    (result,) = lowered.compile()(np.eye(8, dtype=F32), x)
    assert np.allclose(np.asarray(result)[:, 0, 0], [1, 2, 3])


COMPUTED = f"""{MODULE} {{ func.func public @main(%a: tensor<?x8x8xf32>) -> tensor<f32> {{
  %shape = stablehlo.constant dense<[1, 8, 8]> : tensor<3xi64>
  %batch = stablehlo.constant dense<1> : tensor<1xi64>
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %root:2 = stablehlo.custom_call @lapack_spotrf_ffi(%a, %shape, %batch) {{mhlo.backend_config = {{uplo = 76 : ui8}},
    indices_of_shape_operands = dense<[1, 2]> : tensor<2xi64>}}
    : (tensor<?x8x8xf32>, tensor<3xi64>, tensor<1xi64>) -> (tensor<?x8x8xf32>, tensor<?xi32>)
  %sum = stablehlo.reduce(%root#0 init: %zero) applies stablehlo.add across dimensions = [0, 1, 2]
    : (tensor<?x8x8xf32>, tensor<f32>) -> tensor<f32>
  return %sum : tensor<f32> }} }}"""


@pytest.mark.usefixtures("no_compile")
def test_shapes_that_the_program_computes_are_checked_before_it_is_compiled() -> None:
    """The program says that the result has one matrix; the kernel would write three into it."""
    exported = flat(jnp.sum, spec("b", 8, 8))
    audited = audit(with_module(exported, COMPUTED), head_of(exported))
    jax_audit.audit_lowered(audited, jax.jit(audited.exported.call).lower(spec(1, 8, 8)))
    with pytest.raises(ProgramRefused, match="lapack_spotrf_ffi"):
        jax_audit.audit_lowered(audited, jax.jit(audited.exported.call).lower(spec(3, 8, 8)))


# --- forged modules ---

SQUARE = "tensor<8x8xf32>"
CONFIG = "mhlo.backend_config = {}"
CALLBACKS = (
    "xla_ffi_python_cpu_callback",
    "xla_python_cpu_callback",
    "xla_ffi_partitioned_python_cpu_callback",
    "xla_python_gpu_callback",
    "xla_ffi_python_gpu_callback",
    "tpu_custom_call",
    "mosaic_gpu_v2",
    "__gpu$xla.gpu.triton",
    "triton_kernel_call",
    "tf.call_tf_function",
    "AllocateBuffer",
    "annotate_device_placement",
    "MoveToHost",
    "Sharding",
    "SPMDFullToShardShape",
    "stablehlo.dynamic_top_k",
    "hipsolver_getrf_ffi",
    "TopK",
    "__cublas$gemm",
    "",
    "lapack_sgetrf",
)


def _call(target: str, attributes: str = CONFIG, operands: str = "%a", kinds: str = f"({SQUARE}) -> {SQUARE}") -> str:
    return f'%z:1 = "stablehlo.custom_call"({operands}) {{call_target_name = "{target}", {attributes}}} : {kinds}'


def _many(target: str, results: str, attributes: str = CONFIG, operands: int = 1) -> str:
    count = results.count("tensor")
    takes = ", ".join([SQUARE] * operands)
    return (
        f'%z:{count} = "stablehlo.custom_call"({", ".join(["%a"] * operands)})'
        f' {{call_target_name = "{target}", {attributes}}} : ({takes}) -> ({results})'
    )


LU = f"{SQUARE}, tensor<8xi32>, tensor<i32>"
FORGED_CALLS = {
    **{f"target {name}": (_call(name), name or "''") for name in CALLBACKS},
    "callback, typed": (
        _call("xla_ffi_python_cpu_callback", "api_version = 4 : i32, backend_config = {index = 7 : ui64}"),
        "xla_ffi_python_cpu_callback",
    ),
    "result too small": (_many("lapack_sgetrf_ffi", "tensor<2x2xf32>, tensor<8xi32>, tensor<i32>"), "shape"),
    "pivots too few": (_many("lapack_sgetrf_ffi", f"{SQUARE}, tensor<1xi32>, tensor<i32>"), "shape"),
    "pivots of another type": (_many("lapack_sgetrf_ffi", f"{SQUARE}, tensor<8xi8>, tensor<i32>"), "i8"),
    "another kind's kernel": (_many("lapack_dgetrf_ffi", LU), "f32"),
    "a result missing": (_many("lapack_sgetrf_ffi", f"{SQUARE}, tensor<8xi32>"), "2 results"),
    "an operand more": (_many("lapack_sgetrf_ffi", LU, operands=2), "2 operands"),
    "no configuration": (_many("lapack_sgetrf_ffi", LU, "api_version = 2 : i32"), "version 2"),
    "untyped interface": (_many("lapack_sgetrf_ffi", LU, 'api_version = 1 : i32, backend_config = "x"'), "version 1"),
    "both configurations": (
        _many("lapack_sgetrf_ffi", LU, f"api_version = 4 : i32, backend_config = {{}}, {CONFIG}"),
        "configuration",
    ),
    "an entry too many": (_many("lapack_sgetrf_ffi", LU, "mhlo.backend_config = {x = 1 : i32}"), "'x'"),
    "no such mode": (
        _many(
            "lapack_ssyevd_ffi",
            f"{SQUARE}, tensor<8xf32>, tensor<i32>",
            "mhlo.backend_config = {mode = 0 : ui8, uplo = 76 : ui8}",
        ),
        "mode=0",
    ),
    "text for a mode": (
        _many(
            "lapack_ssyevd_ffi",
            f"{SQUARE}, tensor<8xf32>, tensor<i32>",
            'mhlo.backend_config = {mode = "V", uplo = 76 : ui8}',
        ),
        "mode=",
    ),
    "sorted by a function": (
        _many(
            "lapack_sgees_ffi",
            f"{SQUARE}, {SQUARE}, tensor<8xf32>, tensor<8xf32>, tensor<i32>, tensor<i32>",
            "mhlo.backend_config = {mode = 86 : ui8, sort = 83 : ui8}",
        ),
        "sort=83",
    ),
    "beyond the matrix": (
        _many(
            "lapack_sgehrd_ffi",
            f"{SQUARE}, tensor<7xf32>, tensor<i32>",
            "mhlo.backend_config = {low = 1 : i32, high = 9 : i32}",
        ),
        "sizes",
    ),
    "vectors too short": (
        _many(
            "lapack_sgesdd_ffi",
            f"{SQUARE}, tensor<8xf32>, tensor<8x1xf32>, {SQUARE}, tensor<i32>",
            "mhlo.backend_config = {mode = 65 : ui8}",
        ),
        "sizes",
    ),
    "wrong side": (
        (
            '%b = "stablehlo.slice"(%a) {start_indices = array<i64: 0, 0>, limit_indices = array<i64: 8, 4>,'
            f" strides = array<i64: 1, 1>}} : ({SQUARE}) -> tensor<8x4xf32>\n"
            '%z = "stablehlo.custom_call"(%a, %b) {call_target_name = "lapack_strsm_ffi", mhlo.backend_config ='
            " {diag = 85 : ui8, side = 82 : ui8, trans_x = 78 : ui8, uplo = 76 : ui8}}"
            f" : ({SQUARE}, tensor<8x4xf32>) -> tensor<8x4xf32>"
        ),
        "sizes",
    ),
    "side effects": (_many("lapack_sgetrf_ffi", LU, f"{CONFIG}, has_side_effect = true"), "side effects"),
    "a function with a kernel": (
        _many("lapack_sgetrf_ffi", LU, f"{CONFIG}, called_computations = [@main]"),
        "with a function",
    ),
    "huge configuration": (_call("Eigh", f'backend_config = "{"1" * 100_000}"'), "results"),
    "other text": (
        _many("Eigh", f"{SQUARE}, tensor<8xf32>", 'backend_config = "1,1,100,1e-6;x"'),
        "1,1,100,1e-6;x",
    ),
    "dictionary for text": (_many("Eigh", f"{SQUARE}, tensor<8xf32>"), "interface"),
    "frontend attributes": (
        _many("lapack_sgetrf_ffi", LU, f'{CONFIG}, mhlo.frontend_attributes = {{_xla_compute_type = "host"}}'),
        "_xla_compute_type",
    ),
    "an assertion that gives": (
        _call("shape_assertion", 'api_version = 2 : i32, has_side_effect = true, error_message = "x"'),
        "shape_assertion",
    ),
    "an assertion of nothing": (
        _call("shape_assertion", 'has_side_effect = true, error_message = "x"', "", "() -> ()").replace("%z:1 = ", ""),
        "shape_assertion",
    ),
    "bits of another key": (
        _many("stablehlo.dynamic_rng_bit_generator", f"tensor<2xui64>, {SQUARE}", "api_version = 2 : i32", 2),
        "operands",
    ),
    "a window of nothing": (_call("stablehlo.dynamic_reduce_window", "called_computations = [@main]"), "operands"),
    "approximately nothing": (_call("ApproxTopK", f"{CONFIG}, called_computations = [@main]"), "operands"),
}
"""body -> what the refusal has to name"""


@pytest.mark.parametrize("name", FORGED_CALLS)
@pytest.mark.usefixtures("no_compile")
def test_custom_calls(name: str, base: export.Exported) -> None:
    body, named = FORGED_CALLS[name]
    with pytest.raises(ProgramRefused, match=re.escape(named)):
        audit(with_module(base, main(body)), head_of(base))


LARGE = "tensor<1048576x1048576xf32>"
CHAIN = "".join(
    f"func.func private @f{n}(%a: {SQUARE}) -> {SQUARE} {{ %0 = func.call @f{n + 1}(%a) : ({SQUARE}) -> {SQUARE}"
    f" %1 = func.call @f{n + 1}(%0) : ({SQUARE}) -> {SQUARE} return %1 : {SQUARE} }}\n"
    for n in range(40)
)
LEAF = f"func.func private @f40(%a: {SQUARE}) -> {SQUARE} {{ return %a : {SQUARE} }}"
LONG = "".join(
    f"func.func private @f{n}(%a: {SQUARE}) -> {SQUARE} {{ %0 = func.call @f{n + 1}(%a) : ({SQUARE}) -> {SQUARE}"
    f" return %0 : {SQUARE} }}\n"
    for n in range(100)
) + LEAF.replace("f40", "f100")
NESTED = (
    "\n".join(f'%r{n} = "stablehlo.case"(%i) ({{' for n in range(80))
    + f' "stablehlo.return"(%a) : ({SQUARE}) -> () '
    + "\n".join(
        f"}}) : (tensor<i32>) -> {SQUARE}" + (f'\n "stablehlo.return"(%r{n}) : ({SQUARE}) -> ()' if n else "")
        for n in reversed(range(80))
    )
)
REDUCE = f'({{ ^bb0(%x: {SQUARE}, %y: {SQUARE}): "stablehlo.return"(%x) : ({SQUARE}) -> () }})'
CALL = f"%z = func.call @f0(%a) : ({SQUARE}) -> {SQUARE}"
FORGED_OPERATIONS = {
    "all_reduce": (
        (
            f'%z = "stablehlo.all_reduce"(%a) {REDUCE.replace(SQUARE, "tensor<f32>")}'
            f" {{replica_groups = dense<[[0]]> : tensor<1x1xi64>}} : ({SQUARE}) -> {SQUARE}"
        ),
        "stablehlo.all_reduce",
    ),
    "all_gather": (
        (
            '%z = "stablehlo.all_gather"(%a) {all_gather_dim = 0 : i64, replica_groups = dense<[[0]]> : tensor<1x1xi64>}'
            f" : ({SQUARE}) -> {SQUARE}"
        ),
        "stablehlo.all_gather",
    ),
    "partition_id": ('%z = "stablehlo.partition_id"() : () -> tensor<ui32>', "stablehlo.partition_id"),
    "token": ('%z = "stablehlo.create_token"() : () -> !stablehlo.token', "stablehlo.create_token"),
    "after_all": ('%z = "stablehlo.after_all"() : () -> !stablehlo.token', "stablehlo.after_all"),
    "infeed": (
        (
            '%t = "stablehlo.after_all"() : () -> !stablehlo.token %z:2 = "stablehlo.infeed"(%t) {infeed_config = ""}'
            f" : (!stablehlo.token) -> ({SQUARE}, !stablehlo.token)"
        ),
        "stablehlo",
    ),
    "outfeed": (
        (
            '%t = "stablehlo.after_all"() : () -> !stablehlo.token %z = "stablehlo.outfeed"(%a, %t) {outfeed_config = ""}'
            f" : ({SQUARE}, !stablehlo.token) -> !stablehlo.token"
        ),
        "stablehlo",
    ),
    "send": (
        (
            '%t = "stablehlo.after_all"() : () -> !stablehlo.token %z = "stablehlo.send"(%a, %t) {channel_handle ='
            " #stablehlo.channel_handle<handle = 1, type = 2>, is_host_transfer = true}"
            f" : ({SQUARE}, !stablehlo.token) -> !stablehlo.token"
        ),
        "stablehlo",
    ),
    "tuple": (f'%z = "stablehlo.tuple"(%a) : ({SQUARE}) -> tuple<{SQUARE}>', "stablehlo.tuple"),
    "bounded shapes": (
        (
            '%n = "stablehlo.constant"() {value = dense<4> : tensor<i32>} : () -> tensor<i32>'
            f'%z = "stablehlo.set_dimension_size"(%a, %n) {{dimension = 0 : i64}} : ({SQUARE}, tensor<i32>)'
            " -> tensor<?x8xf32, #stablehlo.bounds<8, ?>>"
        ),
        "stablehlo.set_dimension_size",
    ),
    "foreign composite": (
        f'%z = stablehlo.composite "xla.gpu.anything" %a {{decomposition = @g}} : ({SQUARE}) -> {SQUARE}',
        "xla.gpu.anything",
    ),
    "an array too large": (
        f'%c = "stablehlo.constant"() {{value = dense<1.0> : {LARGE}}} : () -> {LARGE}',
        "an array of 4096 GiB",
    ),
    "a size that overflows": (
        '%z = "stablehlo.iota"() {iota_dimension = 0 : i64} : () -> tensor<4294967296x4294967296x4294967296xi8>',
        "an array of",
    ),
    "an attribute for the compiler": (
        (
            f'%z = "stablehlo.add"(%a, %a) {{mhlo.frontend_attributes = {{_xla_compute_type = "host"}}}}'
            f" : ({SQUARE}, {SQUARE}) -> {SQUARE}"
        ),
        "mhlo.frontend_attributes",
    ),
    "open shapes": (
        (
            '%n = "stablehlo.constant"() {value = dense<[9, 8]> : tensor<2xi32>} : () -> tensor<2xi32>'
            '%z = "stablehlo.dynamic_iota"(%n) {iota_dimension = 0 : i64} : (tensor<2xi32>) -> tensor<?x8xf32>'
        ),
        "open shapes",
    ),
    "calls itself": (CALL.replace("f0", "main"), "calls itself"),
    "calls that double": (CALL, "written out", CHAIN + LEAF),
    "calls too deep": (CALL, "nested deeper", LONG),
    "regions too deep": (
        f'%i = "stablehlo.constant"() {{value = dense<0> : tensor<i32>}} : () -> tensor<i32>\n{NESTED}',
        "nested deeper",
    ),
}


@pytest.mark.parametrize("name", FORGED_OPERATIONS)
@pytest.mark.usefixtures("no_compile")
def test_operations(name: str, base: export.Exported) -> None:
    body, named, *beside = FORGED_OPERATIONS[name]
    helper = f"func.func private @g(%a: {SQUARE}) -> {SQUARE} {{ return %a : {SQUARE} }}"
    with pytest.raises(ProgramRefused, match=re.escape(named)):
        audit(with_module(base, main(body, beside="".join(beside) or helper)), head_of(base))


RAW = {
    "arith": ("%z = arith.constant 1 : i32", "", "arith.constant"),
    "chlo": (f"%z = chlo.erf %a : {SQUARE} -> {SQUARE}", "", "chlo.erf"),
    "memref": ("%z = memref.alloc() : memref<8xf32>", "", "memref.alloc"),
    "llvm": ("", "llvm.func @system(!llvm.ptr) -> i32", "llvm.func"),
    "gpu": ("", "gpu.module @k { gpu.func @f() kernel { gpu.return } }", "gpu.module"),
    "mhlo": (f'%z = "mhlo.add"(%a, %a) : ({SQUARE}, {SQUARE}) -> {SQUARE}', "", "mhlo.add"),
    "unknown": ('"evil.op"() : () -> ()', "", "can't be read"),
    "unknown attribute": (
        "",
        f"func.func private @g(%a: {SQUARE}) attributes {{evil.it = 1 : i32}} {{ return }}",
        "evil.it",
    ),
    "function pointers": (f"%f = func.constant @main : ({SQUARE}) -> {SQUARE}", "", "func.constant"),
    "no body": ("", f"func.func private @system({SQUARE}) -> {SQUARE}", "0 blocks"),
    "several devices": ("", 'sdy.mesh @mesh = <["x"=2]>', "sdy.mesh"),
    "module in a module": ("", "module @x { }", "builtin.module"),
    "cast": (
        (
            f"%z = builtin.unrealized_conversion_cast %a : {SQUARE} to tensor<9x9xf32>"
            " %y = stablehlo.add %z, %z : tensor<9x9xf32>"
        ),
        "",
        "unrealized_conversion_cast",
    ),
    "kept in the host's memory": (
        "",
        f'func.func private @g(%a: {SQUARE} {{mhlo.memory_kind = "pinned_host"}}) {{ return }}',
        "mhlo.memory_kind",
    ),
    "value elsewhere": (f"%z = stablehlo.constant dense_resource<blob> : {SQUARE}", "", "value lies elsewhere"),
}


@pytest.mark.parametrize("name", RAW)
@pytest.mark.usefixtures("no_compile")
def test_bytecode_of_other_dialects(name: str, base: export.Exported) -> None:
    """Plain MLIR bytecode is read, too: what is in it decides, not how it was packed."""
    body, beside, named = RAW[name]
    with pytest.raises(ProgramRefused, match=re.escape(named)):
        audit(with_module(base, main(body, beside=beside), raw=True), head_of(base))


# --- forged envelopes ---


def _wrong_head(**changes: Any) -> Any:
    return lambda exported: (packed(exported), {**head_of(exported), **changes})


def _wrong_field(**changes: Any) -> Any:
    return lambda exported: (packed(exported, **changes), head_of(exported))


def _wrong_module(text: str) -> Any:
    return lambda exported: (with_module(exported, text), head_of(exported))


def _tree(tree: Any) -> Any:
    return jax.tree.structure(tree)


OTHER = {"modules": [{"platforms": ["cuda"], "calling_convention": 10}]}
FORGED_ENVELOPES: dict[str, tuple[Any, str]] = {
    "nothing": (lambda exported: (b"", head_of(exported)), "0 bytes"),
    "garbage": (lambda exported: (bytes(range(256)) * 20, head_of(exported)), "its"),
    "half": (lambda exported: (packed(exported)[: len(packed(exported)) // 2], head_of(exported)), "its"),
    "no module": (_wrong_field(mlir_module_serialized=b"x"), "can't be read"),
    "half a module": (
        lambda exported: (
            packed(exported, mlir_module_serialized=exported.mlir_module_serialized[:300]),
            head_of(exported),
        ),
        "can't be read",
    ),
    "several devices": (_wrong_field(nr_devices=2), "2 devices"),
    "another platform": (_wrong_field(platforms=("rocm",)), "rocm"),
    "no platform": (_wrong_field(platforms=()), "platforms"),
    "a platform twice": (_wrong_field(platforms=("cpu", "cpu")), "platforms"),
    "future convention": (_wrong_field(calling_convention_version=99), "99"),
    "disabled checks": (
        _wrong_field(disabled_safety_checks=[export.DisabledSafetyCheck.custom_call("xla_ffi_python_cpu_callback")]),
        "disabled safety checks",
    ),
    "kept what isn't there": (_wrong_field(module_kept_var_idx=(0, 7)), "used arguments"),
    "kept twice": (_wrong_field(module_kept_var_idx=(0, 0)), "used arguments"),
    "arguments of another shape": (_wrong_field(in_avals=(jax.core.ShapedArray((9, 9), F32),)), "arguments"),
    "results of another type": (_wrong_field(out_avals=(jax.core.ShapedArray((8, 8), np.float64),)), "results"),
    "arguments as a tree": (_wrong_field(in_tree=_tree((([0],), {}))), "flat"),
    "named arguments": (_wrong_field(in_tree=_tree(((), {"a": 0}))), "flat"),
    "results as a tree": (_wrong_field(out_tree=_tree({"a": 0})), "flat"),
    "a name with control characters": (_wrong_field(fun_name="a\nb"), "name"),
    "its derivative": (lambda exported: (bytes(exported.serialize(vjp_order=1)), head_of(exported)), "derivative"),
    "a head of nothing": (lambda exported: (packed(exported), {}), "description"),
    "a head of something": (_wrong_head(inputs=3), "description"),
    "a head for another platform": (_wrong_head(**OTHER), "platforms"),
    "a head with weights": (_wrong_head(weights=[["float32", [8, 8]]]), "at number 1"),
    "a head of another shape": (_wrong_head(inputs=[["float32", [9, 9]]]), "arguments"),
    "a head of another type": (_wrong_head(outputs=[["float64", [8, 8]]]), "results"),
    "another main": (_wrong_module(main("", kind="tensor<2xf32>")), "main"),
    "no main": (_wrong_module(main("").replace("@main", "@other")), "no main"),
    "partitions": (_wrong_module(main("").replace("partitions = 1", "partitions = 2")), "mhlo.num_partitions"),
}


@pytest.mark.parametrize("name", FORGED_ENVELOPES)
@pytest.mark.usefixtures("no_compile")
def test_envelopes(name: str, base: export.Exported) -> None:
    make, named = FORGED_ENVELOPES[name]
    with pytest.raises(ProgramRefused, match=re.escape(named)):
        audit(*make(base))


@pytest.mark.parametrize("dimension", ["(a+b)^99", "a" * 300, "__import__('os')", ""])
@pytest.mark.usefixtures("no_compile")
def test_dimensions(dimension: str) -> None:
    exported = flat(lambda x: x, spec("some_dimension", 8))
    name = b"some_dimension"
    data = packed(exported)
    assert name in data
    forged = data.replace(name, dimension.encode()[: len(name)].ljust(len(name), b"'"))
    with pytest.raises(ProgramRefused):
        audit(forged, head_of(exported))
    with pytest.raises(ProgramRefused, match="dimension"):
        jax_audit._check_dimension(dimension)


def test_arrays_beyond_the_memory_of_the_program_are_refused() -> None:
    exported = flat(lambda x: jnp.broadcast_to(x, (1 << 27,)), spec(1))
    assert audit(packed(exported), head_of(exported), 256 * MIB).operations
    with pytest.raises(ProgramRefused, match=r"an array of 512 MiB .* memory= allows") as caught:
        audit(packed(exported), head_of(exported), 32 * MIB)
    assert "raise memory=" in caught.value.hint


def test_the_refusal_travels_as_itself() -> None:
    error = from_code("program_refused", "it has a callback")
    assert type(error) is ProgramRefused and error.message == "it has a callback"


def test_damaged_programs_raise_or_pass(base: export.Exported) -> None:
    """Bytes of the envelope changed at random: jax' reader is Python there, so nothing may crash (a module's bytes can
    crash MLIR's reader, 1 in 100; the slot around it ends then)."""
    exported = flat(lambda x: jnp.tanh(x @ x), spec(8, 8), platforms=ALL)
    data, head = packed(exported), head_of(exported)
    code = data.index(b"ML\xefR")
    places = [at for at in range(len(data)) if not code <= at < code + len(exported.mlir_module_serialized)]
    random = np.random.default_rng(7)
    refused = 0
    for _ in range(250):
        damaged = bytearray(data)
        damaged[random.choice(places)] = random.integers(256)
        try:
            audit(bytes(damaged), head)
        except ProgramRefused:
            refused += 1
    assert refused > 50
