package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"strconv"
)

var csvHeader = []string{"workload", "parameter", "system", "repeat", "metric", "value", "unit"}

// writeCSV writes what was measured, one line for each metric of each repeat.
func writeCSV(path string, rows []row) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	lines := [][]string{csvHeader}
	for _, r := range rows {
		value := strconv.FormatFloat(r.value, 'g', 8, 64)
		lines = append(lines, []string{r.workload, r.parameter, r.system, strconv.Itoa(r.repeat), r.metric, value, r.unit})
	}
	err = csv.NewWriter(file).WriteAll(lines)
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}

func readCSV(path string) ([]row, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	reader := csv.NewReader(file)
	reader.FieldsPerRecord = len(csvHeader)
	lines, err := reader.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var rows []row
	for i, line := range lines[min(1, len(lines)):] {
		repeat, err := strconv.Atoi(line[3])
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: repeat %q is not a number", path, i+2, line[3])
		}
		value, err := strconv.ParseFloat(line[5], 64)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: value %q is not a number", path, i+2, line[5])
		}
		rows = append(rows, row{line[0], line[1], line[2], repeat, line[4], value, line[6]})
	}
	return rows, nil
}
