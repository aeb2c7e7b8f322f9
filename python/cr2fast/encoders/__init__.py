"""From text to embedding: an encoder's identity, ONNX encoders, chat messages, distillation."""
