rule make_phantoms:
    output:
        f"{RESULTS}/manifests/make_phantoms/{{dataset}}.json",
    log:
        f"{RESULTS}/logs/make_phantoms/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/make_phantoms/{{dataset}}.tsv"
    resources:
        mem_mb=lambda w, attempt: demands.volumes_mb(
            "make_phantoms", STUDY, GRAPH.cases(w.dataset), attempt
        ),
        runtime=lambda w, attempt: demands.volumes_min(
            "make_phantoms", STUDY, GRAPH.cases(w.dataset), attempt
        ),
    params:
        leaves=lambda w: short(leaves.phantom_leaves(STUDY, w.dataset)),
        cases=lambda w: GRAPH.members("fold0-seed0", w.dataset),
        code=leaves.stage_code("make_phantoms"),
    shell:
        "{MSKD} phantom --study {STUDY_FILE:q} --dataset {wildcards.dataset:q} > {log:q} 2>&1"
