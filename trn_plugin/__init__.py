"""Task Relation Networks for timm and MMEngine.

Importing the package imports nothing else: ``trn_plugin.deploy`` runs where torch is absent.
"""

__version__ = "0.1.0"
