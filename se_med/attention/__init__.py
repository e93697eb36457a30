"""Attention blocks for 2D and 3D maps. This room imports torch alone and can be used without the rest of se-med."""

from se_med.attention.gate import Gate
from se_med.attention.insertion import insert_attention
from se_med.attention.registry import attention_class, create_attention, list_attention

__all__ = ["Gate", "attention_class", "create_attention", "insert_attention", "list_attention"]
