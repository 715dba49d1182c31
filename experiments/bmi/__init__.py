"""The 40 tasks of the BMI benchmark: samplers with known mutual information, and the comparison."""
