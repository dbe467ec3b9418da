//! FOCUS rows as CSV and as Parquet.

use std::sync::Arc;

use bursar_core::money::Money;
use jiff::Timestamp;
use parquet::data_type::{
    ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::columns::{Column, ColumnType, Value, columns};
use super::{Error, FocusRow, Version};

/// Rows that are written, and held in memory, at once.
const ROW_GROUP_SIZE: usize = 65_536;

/// CSV with a header; null is an empty field.
pub(crate) fn csv(rows: &[FocusRow<'_>], version: Version) -> Result<Vec<u8>, Error> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(columns(version).map(|column| column.name))?;
    for row in rows {
        writer.write_record(columns(version).map(|column| match column.value(row) {
            None => String::new(),
            Some(Value::Text(text)) => text,
            Some(Value::Nanos(nanos)) => Money::from_nanos(nanos).rounded(9),
            Some(Value::Time(at)) => utc(at),
        }))?;
    }
    writer
        .into_inner()
        .map_err(|error| Error::Csv(error.into_error().into()))
}

/// As FOCUS wants instants: in UTC, to the second.
fn utc(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// Parquet without compression: amounts are DECIMAL(38, 9), instants are TIMESTAMP in UTC, null is
/// null.
pub(crate) fn parquet(rows: &[FocusRow<'_>], version: Version) -> Result<Vec<u8>, Error> {
    let fields: Vec<String> = columns(version).map(field).collect();
    let schema = parse_message_type(&format!("message focus {{ {} }}", fields.join(" ")))?;
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), properties)?;
    for rows in rows.chunks(ROW_GROUP_SIZE) {
        let mut group = writer.next_row_group()?;
        for column in columns(version) {
            let values = rows.iter().map(|row| column.value(row));
            match column.kind {
                ColumnType::Text => {
                    write::<ByteArrayType>(&mut group, column, values, |value| match value {
                        Value::Text(text) => Some(ByteArray::from(text.into_bytes())),
                        _ => None,
                    })
                }
                ColumnType::Decimal => write::<FixedLenByteArrayType>(
                    &mut group,
                    column,
                    values,
                    |value| match value {
                        Value::Nanos(nanos) => {
                            let bytes = nanos.to_be_bytes().to_vec();
                            Some(FixedLenByteArray::from(ByteArray::from(bytes)))
                        }
                        _ => None,
                    },
                ),
                ColumnType::Time => {
                    write::<Int64Type>(&mut group, column, values, |value| match value {
                        Value::Time(at) => Some(at.as_microsecond()),
                        _ => None,
                    })
                }
            }?;
        }
        group.close()?;
    }
    Ok(writer.into_inner()?)
}

fn field(column: &Column) -> String {
    let repetition = if column.nullable {
        "OPTIONAL"
    } else {
        "REQUIRED"
    };
    let (kind, logical) = match column.kind {
        ColumnType::Text => ("BYTE_ARRAY", "STRING"),
        ColumnType::Decimal => ("FIXED_LEN_BYTE_ARRAY (16)", "DECIMAL(38,9)"),
        ColumnType::Time => ("INT64", "TIMESTAMP(MICROS,true)"),
    };
    format!("{repetition} {kind} {} ({logical});", column.name)
}

/// Writes one column of a row group.
fn write<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    column: &Column,
    values: impl Iterator<Item = Option<Value>>,
    convert: impl Fn(Value) -> Option<T::T>,
) -> Result<(), ParquetError> {
    let wrong = |what: &str| ParquetError::General(format!("column {}: {what}", column.name));
    let mut writer = group
        .next_column()?
        .ok_or_else(|| wrong("is not in the schema"))?;
    let (mut present, mut levels) = (Vec::new(), Vec::new());
    for value in values {
        levels.push(i16::from(value.is_some()));
        if let Some(value) = value {
            present.push(convert(value).ok_or_else(|| wrong("a value of another type"))?);
        } else if !column.nullable {
            return Err(wrong("has no value, and must have one"));
        }
    }
    let levels = column.nullable.then_some(levels.as_slice());
    writer.typed::<T>().write_batch(&present, levels, None)?;
    writer.close()
}
