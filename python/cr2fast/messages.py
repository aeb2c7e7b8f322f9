"""The compiled module looks for this name."""

from cr2fast.encoders.messages import texts_of as texts_of
