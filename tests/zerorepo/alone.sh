# zerorepo's verbs that need no model, run by tests/pipelines/test_install_alone.py in an environment that holds
# the base install only. The working folder is empty.
set -euo pipefail
mkdir -p repo/shop && cd repo
printf 'from shop.price import total\n\n\nclass Cart:\n    """Holds items."""\n\n    def sum(self):\n        return total(self.items)\n' > shop/cart.py
printf 'def total(items):\n    """Add up the prices of items."""\n    return sum(items)\n' > shop/price.py
touch shop/__init__.py
cd ..
zerorepo encode repo -o rpg.json
zerorepo validate rpg.json
zerorepo show tree rpg.json
zerorepo show stats rpg.json --json > stats.json
zerorepo search "add prices" --json > found.json
grep -q 'shop/price.py:total' found.json
zerorepo fetch price.py:total
zerorepo explore price.py:total --direction up --edge invokes | tee callers.txt
grep -q 'shop/cart.py:Cart.sum' callers.txt
echo "the total of the prices is wrong" | zerorepo localize - --json > ranking.json
grep -q 'shop/price.py' ranking.json
zerorepo map rpg.json --tokens 60
zerorepo export rpg.json --to html -o rpg.html
cp rpg.json old.json
printf '\n\ndef tax(items):\n    return total(items) / 5\n' >> repo/shop/price.py
code=0; zerorepo update rpg.json --check 2> told.txt || code=$?
test "$code" = 1 && grep -q 'out of step' told.txt
zerorepo update rpg.json
zerorepo diff old.json rpg.json --json > delta.json
grep -q 'shop/price.py:tax' delta.json
zerorepo merge old.json rpg.json old.json -o merged.json
cmp merged.json rpg.json
zerorepo doctor
# What is not installed is named with the line that installs it, and exit 3.
code=0; zerorepo search prices --embeddings minilm 2> missing.txt || code=$?
test "$code" = 3 && grep -q 'pip install' missing.txt
code=0; zerorepo encode repo -o lifted.json --model smollm2 2> missing.txt || code=$?
test "$code" = 3 && grep -q 'pip install' missing.txt
