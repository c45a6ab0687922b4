rule train_student:
    input:
        lambda w: GRAPH.student_inputs(w.method, w.run),
    output:
        f"{RESULTS}/manifests/train_student/{{method}}/{{run}}.json",
    log:
        f"{RESULTS}/logs/train_student/{{method}}/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_student/{{method}}/{{run}}.tsv"
    threads: lambda w: demands.training_cores(STUDY.method_training(w.method))
    resources:
        gpu=lambda w: demands.student_gpus(STUDY, w.method),
        nodes=1,
        mem_mb=lambda w, attempt: demands.training_mb(
            STUDY, STUDY.method_training(w.method), attempt
        ),
        runtime=lambda w, attempt: demands.training_min(
            STUDY, STUDY.method_training(w.method), attempt
        ),
    params:
        leaves=lambda w: short(leaves.student_leaves(STUDY, w.method)),
        cases=lambda w: GRAPH.members(w.run, *GRAPH.training),
        code=lambda w: leaves.stage_code("train_student", STUDY.method_kind(w.method)),
    shell:
        "{MSKD} train-student --study {STUDY_FILE:q} --method {wildcards.method:q} --run {wildcards.run:q}"
        " --processes {resources.gpu:q} > {log:q} 2>&1"
