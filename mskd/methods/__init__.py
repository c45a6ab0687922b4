"""Methods: ways to train or build the multi-organ network, one file each.

A method file states, as plain constants that the workflow reads without importing it,

- TITLE: what tables call it;
- TRAINS: whether it trains a network of its own;
- NEEDS: what it reads beside images and labels: "teachers" (model folders), "targets" (cached logits), "features"
  (cached features), "distillation" (the section of that name), "withheld_labels", "organ_sets" (which organs the
  training datasets label, beyond what each sample says of its own);
- DISTILLATION, optional: keys of the section `distillation` whose default is another for this method;
- COMPANIONS, optional: how many further networks of the student's size it trains with ("learning", "following"), for
  the plan;

and offers `build(context)`, which returns the network, its loss, and what patches have to hold (or, where TRAINS is
False, `assemble(context, teachers)`).
"""
