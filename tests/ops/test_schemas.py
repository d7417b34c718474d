"""Every op of dkic.ops.schemas is complete once dkic.ops is imported."""

from ops.python_process import python


def test_every_op_has_a_fake_after_importing_dkic_ops_alone():
    code = """if True:
        import torch, dkic.ops
        ops = {schema.name for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("dkic::")}
        print(sorted(name for name in ops if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta")), len(ops) > 0)
    """
    run = python("-c", code)
    assert run.stdout.strip() == "[] True", run.stdout + run.stderr
