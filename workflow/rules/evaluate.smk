rule evaluate:
    input:
        lambda w: GRAPH.predictions(w.method, w.run, w.dataset),
    output:
        f"{RESULTS}/metrics/{{method}}/{{run}}/{{dataset}}.csv",
    log:
        f"{RESULTS}/logs/evaluate/{{method}}/{{run}}/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{method}}/{{run}}/{{dataset}}.tsv"
    resources:
        mem_mb=lambda w, attempt: demands.volumes_mb(
            "evaluate", STUDY, GRAPH.cases(w.dataset, w.run), attempt
        ),
        runtime=lambda w, attempt: demands.volumes_min(
            "evaluate", STUDY, GRAPH.cases(w.dataset, w.run), attempt
        ),
    params:
        leaves=lambda w: short(leaves.evaluate_leaves(STUDY, w.dataset)),
        cases=lambda w: GRAPH.members(w.run, w.dataset),
        code=leaves.stage_code("evaluate"),
    shell:
        "{MSKD} evaluate --study {STUDY_FILE:q} --method {wildcards.method:q} --run {wildcards.run:q}"
        " --dataset {wildcards.dataset:q} > {log:q} 2>&1"
