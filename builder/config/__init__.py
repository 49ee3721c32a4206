"""Configurations: detectors, training recipes and pyramid graphs as data, and their rules.

    detector        the structure of a network, which its checkpoint carries
    recipe          how its weights are obtained
    configuration   one of each, and what overrides their fields
    named           the table of those that commands know by name
    pyramid_graphs  feature pyramids as tables
    rules, json_record   what values fields may have, and records as JSON
    coco, suppression    facts that several modules share

Depends on ``serving.core``. Begin with ``detector``, then ``named``.
"""
