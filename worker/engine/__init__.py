import os

# Read when ONNX Runtime is imported; without it the wheel sends usage data home and keeps a database below HOME.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
