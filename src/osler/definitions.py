"""What each number of an audit counts: the keys of its JSON, in order."""

DEFINITIONS = {
    "n_train": "Rows to train on.",
    "n_test": "Rows to test on.",
    "shared_image_rows": "Test rows with an image that is in train: by path, or by the very same pixels where images are "
    "read. Null where no row names an image.",
    "shared_image_rate": "shared_image_rows / n_test.",
    "near_duplicate_pairs": "Pairs of a test and a train picture with different pixels, whose 64-bit perceptual hashes "
    "differ in at most near_duplicate_distance bits. Null unless images are read.",
    "shared_group_rows": "Test rows whose group (patient, case) is in train; see rows_without_group.",
    "option_prior_accuracy": "Test score of: the option with the highest times gold / times offered in train.",
    "gold_frequency_accuracy": "Test score of: the option whose text was the gold most often in train.",
    "stem_table_accuracy": "Test score of: the option that was the gold of exactly this stem most often in train.",
    "bag_of_words_accuracy": "Test score of: naive Bayes on the option, its words, and its pairs with words of the stem.",
    "floor": "The highest of the four before; floor_attacker says whose. Options that tie share the credit; open questions "
    "are left out of all six accuracies.",
    "chance_accuracy": "The mean of 1 / number of options; yes/no rows have two, written out or not.",
    "majority_letter_accuracy": "Test score of: the letter that was the gold most often in train; of yes/no rows that write "
    "no options, yes is A and no is B.",
    "stem_determined_rows": "Test rows whose stem has one gold text in all of train and test.",
    "lone_lowercase_rows": "Test rows with one option that starts in lower case while all others start in upper case.",
    "lone_lowercase_gold_rate": "How often that option is the gold.",
    "answer_in_stem_rows": "Test rows whose gold option, and no other, stands in the stem as whole words; never yes or no.",
    "label_in_path_rows": "Test rows whose gold text stands in an image's path as whole words. Null where no path is known.",
    "contradictory_rows": "Rows of train and test whose gold another row calls wrong, or that call another's gold wrong: "
    "same images, same question.",
    "repeated_rows": "Rows of train and test that repeat an earlier one: same images, question, options and golds.",
    "gold_missing_rows": "Rows of train and test that have no gold, or one that is not among their options.",
    "same_option_rows": "Rows of train and test that offer an option twice but for case, blanks and a final full stop.",
    "open_rows": "Test rows that offer nothing to choose from, and so have no floor.",
    "rows_without_group": "Rows of train and test that name no group.",
    "rows_without_image": "Rows of train and test that name no image, not even by path, and so are not compared with others.",
    "images_read": "Whether pixels were compared, or paths alone.",
    "near_duplicate_rows": "Test rows that show a picture of near_duplicate_pairs.",
    "stem_taught_rows": "Of stem_determined_rows, those whose stem is in train.",
    "source_stem_determined_rows": "Test rows whose stem has one gold text in all train and test rows of their source.",
    "train_answer_in_stem_rows": "answer_in_stem_rows, of train.",
    "option_counts": "Rows by how many options they write out, of train and of test; yes/no and open questions may write "
    "none, and then count as 0.",
    "gold_position_counts": "Rows by the letter of their gold, of train and of test; rows that write no options have none, "
    "yes/no rows among them.",
    "near_duplicate_distance": "The largest distance at which two pictures are near-duplicates, in bits.",
    "floor_attacker": "The attacker that sets the floor.",
    "tells": "For each look that an option may have: test rows where one option alone has it, and how often it is the gold.",
}
