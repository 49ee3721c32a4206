"""Segments on OpenVINO's CPU plugin: the embedded engine.

    runner -> compiling  segments compiled for this CPU, or taken from the cache

What makes a boundary between two segments cheap here:

* features cross it in the type and the layout that the plugin computes in (bfloat16 where the CPU
  multiplies it natively, channels last), so that no reordering runs on either side;
* shapes are static, one compiled model for each batch size in ``BATCH_SIZES``: with a dynamic
  batch the plugin falls back to slower layouts (1.6 times the time of a stack);
* inputs and outputs are bound to pooled tensors: nothing is allocated or copied on the way.

Depends on ``serving.artifacts`` and ``serving.core``. Begin with ``runner``.
"""
