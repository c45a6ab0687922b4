rule train_teacher:
    input:
        lambda w: GRAPH.prepared(STUDY.teacher_dataset(w.teacher)),
    output:
        f"{RESULTS}/manifests/train_teacher/{{teacher}}/{{run}}.json",
    log:
        f"{RESULTS}/logs/train_teacher/{{teacher}}/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_teacher/{{teacher}}/{{run}}.tsv"
    threads: lambda w: demands.training_cores(STUDY.teacher_training(w.teacher))
    resources:
        gpu=lambda w: STUDY.teacher_training(w.teacher).gpus,
        nodes=1,
        mem_mb=lambda w, attempt: demands.training_mb(
            STUDY, STUDY.teacher_training(w.teacher), attempt
        ),
        runtime=lambda w, attempt: demands.training_min(
            STUDY, STUDY.teacher_training(w.teacher), attempt
        ),
    params:
        leaves=lambda w: short(leaves.teacher_leaves(STUDY, w.teacher)),
        cases=lambda w: GRAPH.members(w.run, STUDY.teacher_dataset(w.teacher)),
        code=leaves.stage_code("train_teacher"),
    shell:
        "{MSKD} train-teacher --study {STUDY_FILE:q} --teacher {wildcards.teacher:q} --run {wildcards.run:q}"
        " --processes {resources.gpu:q} > {log:q} 2>&1"
