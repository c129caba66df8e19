"""What a jax program may consist of: operations, each with the attributes it may carry, and the types of its values.

``jax.export`` of jax 0.10 wrote everything that is here (the tests export some hundred functions for three platforms); what
it never wrote for one device is missing on purpose: collectives, infeed and outfeed, send and receive, asynchronous and
quantised operations, tuples and tokens, shardings. Data alone.
"""

from __future__ import annotations

from typing import Final

_PLAIN = (
    "abs add and atan2 bitcast_convert case ceil clamp complex convert count_leading_zeros divide dynamic_pad dynamic_reshape"
    " dynamic_update_slice floor if imag is_finite maximum minimum multiply negate not optimization_barrier or popcnt power"
    " real real_dynamic_slice remainder reshape return round_nearest_afz round_nearest_even select shift_left"
    " shift_right_arithmetic shift_right_logical sign subtract while xor"
)
_ACCURATE = "cbrt cosine exponential exponential_minus_one log log_plus_one logistic rsqrt sine sqrt tan tanh"
_WINDOW = "window_strides padding lhs_dilation rhs_dilation window_reversal"
_CONVOLUTION = f"{_WINDOW} dimension_numbers feature_group_count batch_group_count precision_config"
_OTHERS = {
    "broadcast_in_dim": "broadcast_dimensions",
    "cholesky": "lower",
    "compare": "comparison_direction compare_type",
    "composite": "name composite_attributes decomposition version",
    "concatenate": "dimension",
    "constant": "value",
    "convolution": _CONVOLUTION,
    "custom_call": "api_version backend_config call_target_name called_computations error_message has_side_effect"
    " indices_of_shape_operands mhlo.backend_config mhlo.frontend_attributes operand_layouts output_operand_aliases"
    " result_layouts rng_algorithm sdy.sharding_rule",
    "dot_general": "dot_dimension_numbers precision_config algorithm",
    "dynamic_broadcast_in_dim": "broadcast_dimensions known_expanding_dimensions known_nonexpanding_dimensions",
    "dynamic_conv": _CONVOLUTION,
    "dynamic_gather": "dimension_numbers indices_are_sorted",
    "dynamic_iota": "iota_dimension",
    "dynamic_slice": "slice_sizes",
    "fft": "fft_type fft_length",
    "gather": "dimension_numbers slice_sizes indices_are_sorted",
    "get_dimension_size": "dimension",
    "iota": "iota_dimension",
    "map": "dimensions",
    "pad": "edge_padding_low edge_padding_high interior_padding",
    "reduce": "dimensions",
    "reduce_precision": "exponent_bits mantissa_bits",
    "reduce_window": "window_dimensions window_strides base_dilations window_dilations padding",
    "reverse": "dimensions",
    "rng": "rng_distribution",
    "rng_bit_generator": "rng_algorithm",
    "scatter": "scatter_dimension_numbers indices_are_sorted unique_indices",
    "select_and_scatter": "window_dimensions window_strides padding",
    "slice": "start_indices limit_indices strides",
    "sort": "dimension is_stable",
    "transpose": "permutation",
    "triangular_solve": "left_side lower unit_diagonal transpose_a",
}

OPERATIONS: Final[dict[str, frozenset[str]]] = {
    "builtin.module": frozenset(
        {"jax.uses_shape_polymorphism", "mhlo.num_partitions", "mhlo.num_replicas", "sym_name"}
    ),
    "func.func": frozenset({"arg_attrs", "res_attrs", "function_type", "sym_name", "sym_visibility"}),
    "func.call": frozenset({"callee"}),
    "func.return": frozenset(),
    **{f"stablehlo.{name}": frozenset() for name in _PLAIN.split()},
    **{f"stablehlo.{name}": frozenset({"result_accuracy"}) for name in _ACCURATE.split()},
    **{f"stablehlo.{name}": frozenset(attributes.split()) for name, attributes in _OTHERS.items()},
}
"""Attributes by operation."""

_CHLO = (
    "acos acosh asin asin_acos_kernel asinh atan atanh bessel_i1e conj cosh digamma erf erf_inv erfc is_inf is_neg_inf"
    " is_pos_inf lgamma mulhi next_after polygamma ragged_dot sinh square tan top_k zeta"
)
COMPOSITES: Final = frozenset(f"chlo.{name}" for name in _CHLO.split())
"""Operations that the exporter writes as a name and a function of plain operations that does the same."""

ARGUMENT_ATTRIBUTES: Final = frozenset(
    {"jax.global_constant", "jax.result_info", "tf.aliasing_output", "jax.buffer_donor"}
)
"""What arguments and results of functions may carry. Donation means nothing here: jax calls the module from one of its own."""

ELEMENT_BITS: Final = {
    **{f"{sign}{bits}": bits for sign in ("i", "ui") for bits in (2, 4, 8, 16, 32, 64)},
    "i1": 8,
    "f16": 16,
    "bf16": 16,
    "f32": 32,
    "f64": 64,
    "complex<f32>": 64,
    "complex<f64>": 128,
    "f4E2M1FN": 4,
    **{f"f8{kind}": 8 for kind in ("E3M4", "E4M3", "E4M3B11FNUZ", "E4M3FN", "E4M3FNUZ", "E5M2", "E5M2FNUZ", "E8M0FNU")},
}
"""Size of one element by the name of its type."""
