# sparstencil from its base install, run by tests/pipelines/test_install_alone.py: numpy and networkx only. Plans, verifies and
# steps; what is missing is named with the line that installs it.
set -euo pipefail
python -c "import numpy as np; np.save('u.npy', np.random.default_rng(0).standard_normal((40, 50)).astype('float32'))"
sparstencil plan --stencil heat-2d --json > plan.json
sparstencil verify plan.json --stencil heat-2d > verified.txt
sparstencil run u.npy --stencil heat-2d --steps 3 --boundary mirror --backend emulate --mode f32 -o a.npy
sparstencil run u.npy --stencil heat-2d --steps 3 --boundary mirror --backend cpu -o b.npy
python -c "import numpy as np; assert np.allclose(np.load('a.npy'), np.load('b.npy'), atol=1e-5)"
missing() { code=0; "${@:2}" 2> missing.txt || code=$?; test "$code" = 3; grep -q "$1" missing.txt; }
missing "pip install 'sparstencil\[io\]'" sparstencil run u.npy --stencil heat-2d -o c.h5
missing "pip install 'sparstencil\[gpu\]'" sparstencil run u.npy --stencil heat-2d --backend cuda-sp -o d.npy
sparstencil doctor --json > doctor.json
grep -q '"emulate": {"ok": true' doctor.json
