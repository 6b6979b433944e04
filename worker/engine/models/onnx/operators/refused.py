"""Operators of known domains that are refused on purpose, and what the user should know of each."""

Word = tuple[str, str]
"""What the operator is, and what to do."""

TREES = ("is made of trees, which have no gradient", "audit a linear, kernel or neural model")
TEXT = ("works on text, which has no gradient", "encode the text as numbers before the model")
TRAINING = ("is a step of training", "audit the model that it trained")
VOTES = ("lets pairs of classes vote, which has no gradient", "audit a linear, kernel or neural model")
GPU_ONLY = (
    "has no kernel for CPUs in ONNX Runtime, so nothing can be compared with it",
    "audit the file from before it was optimised for a GPU",
)
GPU_OPERATORS = (
    "BiasAdd",
    "BiasDropout",
    "BiasSoftmax",
    "BiasSplitGelu",
    "BitmaskDropout",
    "BitmaskBiasDropout",
    "ComplexMul",
    "ComplexMulConj",
    "DecoderAttention",
    "DecoderMaskedSelfAttention",
    "FusedMatMulActivation",
    "GatedRelativePositionBias",
    "GemmFastGelu",
    "GemmaRotaryEmbedding",
    "GroupNorm",
    "Irfft",
    "LongformerAttention",
    "NhwcConv",
    "NhwcFusedConv",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "PagedAttention",
    "RelativePositionBias",
    "RemovePadding",
    "RestorePadding",
    "Rfft",
    "RMSNormRotary",
    "SkipGroupNorm",
    "SwiGLU",
    "TorchEmbedding",
)
IMAGES = ("decodes image files", "decode them before the model")

REFUSED: dict[tuple[str, str], Word] = {
    **{("ai.onnx.ml", name): TREES for name in ("TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor")},
    **{("ai.onnx.ml", name): TEXT for name in ("CastMap", "CategoryMapper", "DictVectorizer")},
    ("ai.onnx.ml", "SVMClassifier"): VOTES,
    **{("", name): TEXT for name in ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit")},
    ("", "ImageDecoder"): IMAGES,
    **{("com.microsoft", name): GPU_ONLY for name in GPU_OPERATORS},
    ("com.microsoft", "Tokenizer"): TEXT,
    **{
        (domain, name): TRAINING
        for domain in ("ai.onnx.training", "ai.onnx.preview.training")
        for name in ("Adagrad", "Adam", "Gradient", "Momentum")
    },
}
"""By domain and name."""
