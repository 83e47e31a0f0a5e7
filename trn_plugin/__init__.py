"""Task Relation Networks for timm and MMEngine.

Importing the package imports nothing else: ``trn_plugin.deploy`` runs where torch is absent.
"""

import os

# A picture's header can promise more than the memory holds; OpenCV reads these when it is imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))
os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")  # what it cannot read is told by an error

__version__ = "0.1.0"
