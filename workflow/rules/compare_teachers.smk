rule compare_teachers:
    input:
        targets=lambda w: GRAPH.targets(w.run),
        prepared=lambda w: GRAPH.prepared(*GRAPH.training),
    output:
        f"{RESULTS}/manifests/compare_teachers/{{run}}.json",
    log:
        f"{RESULTS}/logs/compare_teachers/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/compare_teachers/{{run}}.tsv"
    resources:
        mem_mb=lambda w, attempt: demands.comparing_mb(
            STUDY, GRAPH.every_case(), attempt
        ),
        runtime=lambda w, attempt: demands.volumes_min(
            "compare_teachers", STUDY, GRAPH.every_case(), attempt
        ),
    params:
        leaves=short(leaves.compare_leaves(STUDY)),
        cases=lambda w: GRAPH.members(w.run, *GRAPH.training),
        code=leaves.stage_code("compare_teachers"),
    shell:
        "{MSKD} cache compare --study {STUDY_FILE:q} --run {wildcards.run:q} > {log:q} 2>&1"
