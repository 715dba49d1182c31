"""Mutual information inside training frameworks: Lightning, Transformers, ManiSkill.

Each module here needs its own extra (``pip install "flashmi_reg[lightning]"`` and so on), so this
package imports none of them; import the one you use.
"""
