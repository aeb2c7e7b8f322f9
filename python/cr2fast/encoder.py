"""The compiled module looks for this name."""

from cr2fast.encoders.info import EncoderInfo as EncoderInfo
