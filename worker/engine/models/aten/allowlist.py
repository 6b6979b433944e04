"""The operators that may run. Everything else is refused before anything of the file is executed.

Only functions of tensors and numbers stand here: none of them opens a file, a socket or a process, none
calls back into Python. An in-place form (trailing underscore) is allowed where its plain form is.
"""

from schemas.errors import Fault, OperatorFault


def split_names(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


POINTWISE = """
abs absolute acos acosh add addcdiv addcmul arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2 atanh
bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor __and__ __or__ __xor__ __lshift__
__rshift__ ceil celu clamp clamp_max clamp_min clip copysign cos cosh deg2rad digamma div divide dropout elu eq erf erfc erfinv
exp exp2 expm1 fix float_power floor floor_divide fmax fmin fmod frac frexp ge gelu glu greater greater_equal gt hardshrink
hardsigmoid hardswish hardtanh heaviside hypot i0 isclose isfinite isinf isnan isneginf isposinf le leaky_relu lerp less
less_equal lgamma log log10 log1p log2 log_sigmoid logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit lt
maximum minimum mish mul multiply mvlgamma nan_to_num ne neg negative nextafter not_equal polygamma positive pow prelu rad2deg
reciprocal relu relu6 remainder round rrelu rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink sqrt
square sub subtract tan tanh threshold true_divide trunc where xlogy special_erf special_expit special_exp2 special_expm1
special_gammaln special_log1p special_logit special_ndtr special_xlog1py special_xlogy special_entr special_erfc
special_log_ndtr isin ldexp sum_to_size dist
"""

REDUCTIONS = """
all amax amin aminmax any argmax argmin argsort argwhere bincount count_nonzero cummax cummin cumprod cumsum diff histc kthvalue
log_softmax logcumsumexp logsumexp max mean median min mode msort nanmean nanmedian nansum nonzero norm prod quantile
searchsorted bucketize softmax sort special_logsumexp special_log_softmax special_softmax std std_mean sum topk
unique_consecutive unique_dim _unique2 var var_mean equal allclose trace linalg_norm linalg_vector_norm linalg_matrix_norm
renorm
"""

LINEAR = """
addbmm addmm addmv addr baddbmm bilinear bmm chain_matmul convolution _convolution conv1d conv2d conv3d conv_transpose1d
conv_transpose2d conv_transpose3d conv_tbc _convolution_mode cdist cosine_similarity cross dot einsum embedding embedding_bag
gru gru_cell ger inner kron linear lstm lstm_cell matmul mm mv multi_margin_loss outer pairwise_distance pdist rnn_relu
rnn_relu_cell rnn_tanh rnn_tanh_cell scaled_dot_product_attention tensordot _trilinear vdot linalg_cross linalg_inv
linalg_matmul linalg_multi_dot linalg_solve linalg_det inverse det tril triu tril_indices triu_indices matrix_power
linalg_matrix_power _native_multi_head_attention _transformer_encoder_layer_fwd
"""

NORMALISATION_AND_POOLING = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm native_batch_norm feature_alpha_dropout feature_dropout
fractional_max_pool2d group_norm native_group_norm instance_norm layer_norm native_layer_norm max_pool1d max_pool1d_with_indices
max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d native_dropout rms_norm
"""

SHAPING = """
_reshape_alias _unsafe_view alias as_strided atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to cat channel_shuffle
chunk col2im column_stack combinations concat concatenate constant_pad_nd contiguous detach diag diag_embed diagflat diagonal
dsplit dstack expand expand_as flatten flip fliplr flipud gather grid_sampler grid_sampler_2d affine_grid_generator hsplit
hstack im2col index index_add index_copy index_fill index_put index_select masked_fill masked_scatter masked_select meshgrid
moveaxis movedim narrow narrow_copy native_channel_shuffle numpy_T matrix_H mT mH pad permute pixel_shuffle pixel_unshuffle put
ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
replication_pad3d reshape reshape_as resolve_conj resolve_neg roll rot90 row_stack scatter scatter_add scatter_reduce select
select_scatter slice slice_scatter split split_with_sizes squeeze stack swapaxes swapdims t take take_along_dim tensor_split
tile transpose unbind unflatten unfold unsqueeze unsafe_chunk unsafe_split unsafe_split_with_sizes view view_as vsplit vstack
one_hot real imag view_as_complex view_as_real _pad_circular
"""

RESIZING = """
__interpolate upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _upsample_bicubic2d_aa
_upsample_bilinear2d_aa _upsample_lanczos2d_aa
"""

CREATION = """
_cast_Double _cast_Float _cast_Half _cast_Int _cast_Long arange bartlett_window blackman_window clone complex copy empty
empty_like empty_permuted empty_strided eye fill full full_like hamming_window hann_window linspace logspace new_empty new_full
new_ones new_zeros ones ones_like polar scalar_tensor lift_fresh lift_fresh_copy to type_as zero zeros zeros_like _to_copy
bernoulli multinomial normal rand rand_like randint randint_like randn randn_like randperm uniform exponential cauchy geometric
log_normal random
"""

LOSSES = """
binary_cross_entropy binary_cross_entropy_with_logits cross_entropy_loss huber_loss kl_div l1_loss mse_loss nll_loss nll_loss_nd
smooth_l1_loss
"""

FOURIER = """
fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_fftshift fft_ifftshift stft
istft
"""

DECOMPOSED = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _cdist_forward _embedding_bag _fft_c2c _fft_c2r _fft_r2c _log_softmax
_native_batch_norm_legit _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _pdist_forward _prelu_kernel
_softmax _unsafe_index _unsafe_index_put _unsafe_masked_index _weight_norm_interface as_strided_scatter diagonal_scatter
_fused_rms_norm _weight_norm
"""
"""What torch.export's decompositions leave of operators above."""

TENSOR_OPERATORS = split_names(
    f"{POINTWISE} {REDUCTIONS} {LINEAR} {NORMALISATION_AND_POOLING} {SHAPING} {RESIZING} {CREATION} {LOSSES} {FOURIER} "
    f"{DECOMPOSED}"
)
"""Names in torch.ops.aten that may run, without overload."""

LOADABLE_ONLY = split_names("""
_nested_tensor_from_mask _nested_tensor_from_mask_left_aligned to_padded_tensor _nested_tensor_size ctc_loss poisson_nll_loss
cosine_embedding_loss margin_ranking_loss hinge_embedding_loss triplet_margin_loss soft_margin_loss multilabel_margin_loss
_pack_padded_sequence _pad_packed_sequence pad_sequence to_sparse to_dense coalesce is_coalesced values indices
quantize_per_tensor dequantize fake_quantize_per_tensor_affine record_stream is_pinned pin_memory is_conj conj requires_grad_
view_as_real_copy _assert_async max_unpool3d fractional_max_pool3d grid_sampler_3d
""")
"""Harmless names that a file's library code may mention. They may be loaded; a graph that reaches one is refused."""

RANDOM = split_names("""
bernoulli multinomial normal rand rand_like randint randint_like randn randn_like randperm uniform exponential cauchy geometric
log_normal random fractional_max_pool2d
""")
"""Operators that draw from the random number generator whatever their arguments are."""

VALUE_SHAPED = split_names(
    "argwhere nonzero masked_select unique_consecutive unique_dim _unique2 bincount repeat_interleave.Tensor"
)
"""Operators whose result has a shape that depends on values (a dot names one overload only)."""

SHAPE_QUERIES = split_names("""
aten::size aten::dim aten::ndimension aten::len aten::numel aten::stride aten::is_floating_point aten::is_complex
aten::is_contiguous aten::element_size prim::device prim::dtype prim::type prim::is_cuda
""")
"""Builtins whose result depends on a tensor's shape, dtype or place, never on its values."""


def is_allowed_tensor_operator(name: str) -> bool:
    """Return whether torch.ops.aten.<name>, or the plain form of this in-place name, may run."""
    return name in TENSOR_OPERATORS or strip_in_place(name) in TENSOR_OPERATORS


def strip_in_place(name: str) -> str:
    """Return the plain form of an in-place name, and other names unchanged.

    >>> strip_in_place("relu_"), strip_in_place("relu"), strip_in_place("__and__"), strip_in_place("__iand__")
    ('relu', 'relu', '__and__', '__and__')
    """
    if name.startswith("__i") and name.endswith("__"):
        return f"__{name[3:]}"
    if name.endswith("_") and not name.endswith("__"):
        return name[:-1]
    return name


def describe_unsupported(name: str, count: int, what: str = "node") -> Fault:
    """Return the fault for an operator outside the table, found so many times."""
    domain, _, operator = name.partition("::")
    return OperatorFault(
        f"operator {name} is not supported",
        where=name,
        expected="PyTorch operators of the support table",
        got=f"{count} {what}{'s' * (count > 1)}",
        advice="rewrite this part with standard tensor operators, or export the model to ONNX",
        operator=operator or name,
        domain=domain if operator else "",
        count=count,
    )
