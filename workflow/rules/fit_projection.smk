rule fit_projection:
    input:
        teacher=f"{RESULTS}/manifests/train_teacher/{{teacher}}/{{run}}.json",
        prepared=lambda w: GRAPH.prepared(STUDY.teacher_dataset(w.teacher)),
    output:
        f"{RESULTS}/manifests/fit_projection/{{teacher}}/{{run}}.json",
    log:
        f"{RESULTS}/logs/fit_projection/{{teacher}}/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fit_projection/{{teacher}}/{{run}}.tsv"
    threads: STUDY.inference.threads
    resources:
        gpu=1,
        mem_mb=lambda w, attempt: demands.asking_mb(
            STUDY, w.teacher, GRAPH.cases(STUDY.teacher_dataset(w.teacher)), attempt
        ),
        runtime=lambda w, attempt: demands.volumes_min(
            "cache_targets",
            STUDY,
            GRAPH.cases(STUDY.teacher_dataset(w.teacher)),
            attempt,
        ),
    params:
        leaves=short(leaves.projection_leaves(STUDY)),
        cases=lambda w: GRAPH.members(w.run, STUDY.teacher_dataset(w.teacher)),
        code=leaves.stage_code("fit_projection", teacher="trained"),
    shell:
        "{MSKD} cache fit --study {STUDY_FILE:q} --teacher {wildcards.teacher:q} --run {wildcards.run:q} > {log:q} 2>&1"
