"""The architectures that every test run opens, checks and edits. What fails a check on one of these is an error.

Any other decoder opens too, with what passes its checks; what does not is withheld and named. The table in the README
is made from a run over these.
"""

TESTED = (
    "GPT2LMHeadModel",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "OlmoForCausalLM",
    "Olmo2ForCausalLM",
    "GPTNeoXForCausalLM",
    "PhiForCausalLM",
    "Phi3ForCausalLM",
    "BitNetForCausalLM",
    "MixtralForCausalLM",
    "OlmoeForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3MoeForCausalLM",
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "GptOssForCausalLM",
    "GraniteMoeForCausalLM",
)
"""Class names in transformers."""
