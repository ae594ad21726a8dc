from tallybook.accounts.balances import belongs


def test_an_account_and_what_stands_below_it():
    assert belongs("food", "food") and belongs("food:bread:rye", "food")
    assert not belongs("foodstuff", "food") and not belongs("food", "food:bread")
