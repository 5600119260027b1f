//! Every country: its name, the part of the world it belongs to, and where its people are.
//!
//! The codes are all officially assigned ISO 3166-1 alpha-2 codes, and `XK`, the user-assigned code geo tables use for
//! Kosovo. Names are the usual English short names, in ASCII.
//!
//! Positions are degrees of latitude and longitude (WGS 84), good to about a degree. They stand for a client of whom
//! nothing but the country is known, so they lie where most of the people live, not in the middle of the map: Russia's
//! is near the Volga, Canada's between Toronto and Ottawa. Uninhabited territories have their centre or main station.

use crate::place::Area;
use crate::place::Area::{Africa, AsiaPacific, Europe, MiddleEast, NorthAmerica, SouthAmerica};

/// What is known of one country.
#[derive(Debug)]
pub(crate) struct CountryFacts {
    /// ISO 3166-1 alpha-2, upper case.
    pub(crate) code: [u8; 2],
    pub(crate) name: &'static str,
    pub(crate) area: Area,
    /// Degrees north.
    pub(crate) lat: f32,
    /// Degrees east.
    pub(crate) lon: f32,
}

/// The facts of a country; `None` for a code that is not assigned. The code is upper case.
pub(crate) fn country_facts(code: [u8; 2]) -> Option<&'static CountryFacts> {
    let at = COUNTRIES.binary_search_by_key(&code, |facts| facts.code).ok()?;
    COUNTRIES.get(at)
}

const fn c(code: &[u8; 2], name: &'static str, area: Area, lat: f32, lon: f32) -> CountryFacts {
    CountryFacts { code: *code, name, area, lat, lon }
}

/// Sorted by code: the lookup is a binary search.
// One row a line, so that a correction shows as the one line it is.
#[rustfmt::skip]
pub(crate) static COUNTRIES: [CountryFacts; 250] = [
    c(b"AD", "Andorra", Europe, 42.51, 1.52),
    c(b"AE", "United Arab Emirates", MiddleEast, 25.00, 55.10),
    c(b"AF", "Afghanistan", AsiaPacific, 34.50, 68.20),
    c(b"AG", "Antigua and Barbuda", NorthAmerica, 17.12, -61.85),
    c(b"AI", "Anguilla", NorthAmerica, 18.22, -63.06),
    c(b"AL", "Albania", Europe, 41.20, 19.90),
    c(b"AM", "Armenia", Europe, 40.20, 44.50),
    c(b"AO", "Angola", Africa, -10.00, 14.50),
    c(b"AQ", "Antarctica", SouthAmerica, -62.20, -58.96),
    c(b"AR", "Argentina", SouthAmerica, -34.00, -61.00),
    c(b"AS", "American Samoa", AsiaPacific, -14.30, -170.70),
    c(b"AT", "Austria", Europe, 47.80, 14.90),
    c(b"AU", "Australia", AsiaPacific, -35.50, 148.20),
    c(b"AW", "Aruba", NorthAmerica, 12.52, -69.98),
    c(b"AX", "Aland Islands", Europe, 60.12, 19.95),
    c(b"AZ", "Azerbaijan", Europe, 40.40, 48.60),
    c(b"BA", "Bosnia and Herzegovina", Europe, 44.20, 17.90),
    c(b"BB", "Barbados", NorthAmerica, 13.13, -59.57),
    c(b"BD", "Bangladesh", AsiaPacific, 23.80, 90.30),
    c(b"BE", "Belgium", Europe, 50.88, 4.50),
    c(b"BF", "Burkina Faso", Africa, 12.30, -1.60),
    c(b"BG", "Bulgaria", Europe, 42.60, 24.60),
    c(b"BH", "Bahrain", MiddleEast, 26.20, 50.55),
    c(b"BI", "Burundi", Africa, -3.35, 29.70),
    c(b"BJ", "Benin", Africa, 6.90, 2.40),
    c(b"BL", "Saint Barthelemy", NorthAmerica, 17.90, -62.83),
    c(b"BM", "Bermuda", NorthAmerica, 32.30, -64.78),
    c(b"BN", "Brunei", AsiaPacific, 4.90, 114.90),
    c(b"BO", "Bolivia", SouthAmerica, -17.30, -66.20),
    c(b"BQ", "Bonaire, Sint Eustatius and Saba", NorthAmerica, 12.17, -68.27),
    c(b"BR", "Brazil", SouthAmerica, -20.50, -45.50),
    c(b"BS", "Bahamas", NorthAmerica, 25.03, -77.40),
    c(b"BT", "Bhutan", AsiaPacific, 27.30, 89.70),
    c(b"BV", "Bouvet Island", Africa, -54.42, 3.36),
    c(b"BW", "Botswana", Africa, -24.00, 26.00),
    c(b"BY", "Belarus", Europe, 53.80, 27.70),
    c(b"BZ", "Belize", NorthAmerica, 17.40, -88.60),
    c(b"CA", "Canada", NorthAmerica, 44.60, -77.20),
    c(b"CC", "Cocos (Keeling) Islands", AsiaPacific, -12.18, 96.83),
    c(b"CD", "DR Congo", Africa, -4.20, 21.50),
    c(b"CF", "Central African Republic", Africa, 5.00, 18.70),
    c(b"CG", "Congo", Africa, -4.30, 14.40),
    c(b"CH", "Switzerland", Europe, 47.15, 8.00),
    c(b"CI", "Cote d'Ivoire", Africa, 6.30, -5.00),
    c(b"CK", "Cook Islands", AsiaPacific, -21.21, -159.78),
    c(b"CL", "Chile", SouthAmerica, -34.00, -71.00),
    c(b"CM", "Cameroon", Africa, 4.60, 10.90),
    c(b"CN", "China", AsiaPacific, 32.80, 113.50),
    c(b"CO", "Colombia", SouthAmerica, 5.30, -74.60),
    c(b"CR", "Costa Rica", NorthAmerica, 9.95, -84.10),
    c(b"CU", "Cuba", NorthAmerica, 22.40, -80.50),
    c(b"CV", "Cabo Verde", Africa, 15.30, -23.80),
    c(b"CW", "Curacao", NorthAmerica, 12.12, -68.93),
    c(b"CX", "Christmas Island", AsiaPacific, -10.43, 105.68),
    c(b"CY", "Cyprus", Europe, 34.95, 33.20),
    c(b"CZ", "Czechia", Europe, 49.80, 15.40),
    c(b"DE", "Germany", Europe, 50.80, 9.40),
    c(b"DJ", "Djibouti", Africa, 11.58, 43.10),
    c(b"DK", "Denmark", Europe, 55.80, 10.90),
    c(b"DM", "Dominica", NorthAmerica, 15.35, -61.36),
    c(b"DO", "Dominican Republic", NorthAmerica, 18.70, -70.10),
    c(b"DZ", "Algeria", Africa, 36.00, 3.20),
    c(b"EC", "Ecuador", SouthAmerica, -1.50, -79.30),
    c(b"EE", "Estonia", Europe, 59.10, 25.40),
    c(b"EG", "Egypt", Africa, 30.00, 31.20),
    c(b"EH", "Western Sahara", Africa, 27.00, -13.00),
    c(b"ER", "Eritrea", Africa, 15.30, 38.90),
    c(b"ES", "Spain", Europe, 39.80, -3.50),
    c(b"ET", "Ethiopia", Africa, 8.90, 39.00),
    c(b"FI", "Finland", Europe, 61.50, 24.90),
    c(b"FJ", "Fiji", AsiaPacific, -17.95, 178.20),
    c(b"FK", "Falkland Islands", SouthAmerica, -51.70, -57.87),
    c(b"FM", "Micronesia", AsiaPacific, 6.92, 158.16),
    c(b"FO", "Faroe Islands", Europe, 62.02, -6.80),
    c(b"FR", "France", Europe, 47.30, 2.60),
    c(b"GA", "Gabon", Africa, 0.30, 9.70),
    c(b"GB", "United Kingdom", Europe, 52.60, -1.70),
    c(b"GD", "Grenada", NorthAmerica, 12.08, -61.70),
    c(b"GE", "Georgia", Europe, 41.90, 44.00),
    c(b"GF", "French Guiana", SouthAmerica, 4.95, -52.60),
    c(b"GG", "Guernsey", Europe, 49.46, -2.58),
    c(b"GH", "Ghana", Africa, 6.40, -0.90),
    c(b"GI", "Gibraltar", Europe, 36.14, -5.35),
    c(b"GL", "Greenland", NorthAmerica, 65.00, -51.90),
    c(b"GM", "Gambia", Africa, 13.40, -16.40),
    c(b"GN", "Guinea", Africa, 9.90, -12.70),
    c(b"GP", "Guadeloupe", NorthAmerica, 16.20, -61.50),
    c(b"GQ", "Equatorial Guinea", Africa, 2.00, 10.00),
    c(b"GR", "Greece", Europe, 38.60, 23.10),
    c(b"GS", "South Georgia and the South Sandwich Islands", SouthAmerica, -54.28, -36.51),
    c(b"GT", "Guatemala", NorthAmerica, 14.80, -90.80),
    c(b"GU", "Guam", AsiaPacific, 13.50, 144.80),
    c(b"GW", "Guinea-Bissau", Africa, 11.95, -15.40),
    c(b"GY", "Guyana", SouthAmerica, 6.70, -58.00),
    c(b"HK", "Hong Kong", AsiaPacific, 22.35, 114.15),
    c(b"HM", "Heard Island and McDonald Islands", AsiaPacific, -53.08, 73.50),
    c(b"HN", "Honduras", NorthAmerica, 14.70, -87.40),
    c(b"HR", "Croatia", Europe, 45.40, 16.10),
    c(b"HT", "Haiti", NorthAmerica, 18.80, -72.40),
    c(b"HU", "Hungary", Europe, 47.30, 19.30),
    c(b"ID", "Indonesia", AsiaPacific, -6.50, 109.50),
    c(b"IE", "Ireland", Europe, 53.20, -7.10),
    c(b"IL", "Israel", MiddleEast, 32.10, 34.90),
    c(b"IM", "Isle of Man", Europe, 54.18, -4.50),
    c(b"IN", "India", AsiaPacific, 22.90, 79.60),
    c(b"IO", "British Indian Ocean Territory", AsiaPacific, -7.31, 72.41),
    c(b"IQ", "Iraq", MiddleEast, 33.20, 44.40),
    c(b"IR", "Iran", MiddleEast, 34.50, 51.60),
    c(b"IS", "Iceland", Europe, 64.20, -21.60),
    c(b"IT", "Italy", Europe, 42.90, 12.00),
    c(b"JE", "Jersey", Europe, 49.20, -2.13),
    c(b"JM", "Jamaica", NorthAmerica, 18.05, -77.00),
    c(b"JO", "Jordan", MiddleEast, 32.00, 35.95),
    c(b"JP", "Japan", AsiaPacific, 35.50, 137.60),
    c(b"KE", "Kenya", Africa, -0.60, 36.90),
    c(b"KG", "Kyrgyzstan", AsiaPacific, 41.80, 73.70),
    c(b"KH", "Cambodia", AsiaPacific, 11.80, 104.90),
    c(b"KI", "Kiribati", AsiaPacific, 1.45, 173.00),
    c(b"KM", "Comoros", Africa, -11.90, 43.60),
    c(b"KN", "Saint Kitts and Nevis", NorthAmerica, 17.30, -62.73),
    c(b"KP", "North Korea", AsiaPacific, 39.30, 126.20),
    c(b"KR", "South Korea", AsiaPacific, 36.60, 127.60),
    c(b"KW", "Kuwait", MiddleEast, 29.30, 48.00),
    c(b"KY", "Cayman Islands", NorthAmerica, 19.30, -81.30),
    c(b"KZ", "Kazakhstan", AsiaPacific, 46.50, 71.50),
    c(b"LA", "Laos", AsiaPacific, 17.90, 103.20),
    c(b"LB", "Lebanon", MiddleEast, 33.90, 35.60),
    c(b"LC", "Saint Lucia", NorthAmerica, 13.95, -60.98),
    c(b"LI", "Liechtenstein", Europe, 47.16, 9.53),
    c(b"LK", "Sri Lanka", AsiaPacific, 7.00, 80.30),
    c(b"LR", "Liberia", Africa, 6.50, -10.30),
    c(b"LS", "Lesotho", Africa, -29.40, 27.80),
    c(b"LT", "Lithuania", Europe, 55.20, 23.90),
    c(b"LU", "Luxembourg", Europe, 49.62, 6.12),
    c(b"LV", "Latvia", Europe, 56.90, 24.40),
    c(b"LY", "Libya", Africa, 32.20, 15.20),
    c(b"MA", "Morocco", Africa, 33.50, -6.60),
    c(b"MC", "Monaco", Europe, 43.73, 7.42),
    c(b"MD", "Moldova", Europe, 47.10, 28.70),
    c(b"ME", "Montenegro", Europe, 42.50, 19.20),
    c(b"MF", "Saint Martin", NorthAmerica, 18.07, -63.08),
    c(b"MG", "Madagascar", Africa, -19.00, 47.30),
    c(b"MH", "Marshall Islands", AsiaPacific, 7.10, 171.30),
    c(b"MK", "North Macedonia", Europe, 41.80, 21.50),
    c(b"ML", "Mali", Africa, 12.80, -6.80),
    c(b"MM", "Myanmar", AsiaPacific, 19.80, 96.00),
    c(b"MN", "Mongolia", AsiaPacific, 47.90, 106.00),
    c(b"MO", "Macao", AsiaPacific, 22.18, 113.55),
    c(b"MP", "Northern Mariana Islands", AsiaPacific, 15.18, 145.74),
    c(b"MQ", "Martinique", NorthAmerica, 14.63, -61.00),
    c(b"MR", "Mauritania", Africa, 17.60, -14.60),
    c(b"MS", "Montserrat", NorthAmerica, 16.75, -62.20),
    c(b"MT", "Malta", Europe, 35.89, 14.45),
    c(b"MU", "Mauritius", Africa, -20.25, 57.52),
    c(b"MV", "Maldives", AsiaPacific, 4.20, 73.50),
    c(b"MW", "Malawi", Africa, -14.20, 34.40),
    c(b"MX", "Mexico", NorthAmerica, 20.30, -99.80),
    c(b"MY", "Malaysia", AsiaPacific, 3.40, 102.20),
    c(b"MZ", "Mozambique", Africa, -18.50, 35.70),
    c(b"NA", "Namibia", Africa, -20.00, 16.80),
    c(b"NC", "New Caledonia", AsiaPacific, -22.20, 166.40),
    c(b"NE", "Niger", Africa, 13.70, 5.70),
    c(b"NF", "Norfolk Island", AsiaPacific, -29.04, 167.95),
    c(b"NG", "Nigeria", Africa, 8.90, 7.20),
    c(b"NI", "Nicaragua", NorthAmerica, 12.30, -86.20),
    c(b"NL", "Netherlands", Europe, 52.10, 5.10),
    c(b"NO", "Norway", Europe, 60.70, 9.60),
    c(b"NP", "Nepal", AsiaPacific, 27.60, 84.80),
    c(b"NR", "Nauru", AsiaPacific, -0.53, 166.93),
    c(b"NU", "Niue", AsiaPacific, -19.05, -169.87),
    c(b"NZ", "New Zealand", AsiaPacific, -39.50, 175.50),
    c(b"OM", "Oman", MiddleEast, 23.20, 57.70),
    c(b"PA", "Panama", NorthAmerica, 8.90, -79.80),
    c(b"PE", "Peru", SouthAmerica, -10.80, -76.50),
    c(b"PF", "French Polynesia", AsiaPacific, -17.60, -149.60),
    c(b"PG", "Papua New Guinea", AsiaPacific, -6.40, 146.00),
    c(b"PH", "Philippines", AsiaPacific, 13.50, 121.80),
    c(b"PK", "Pakistan", AsiaPacific, 30.70, 71.30),
    c(b"PL", "Poland", Europe, 51.90, 19.40),
    c(b"PM", "Saint Pierre and Miquelon", NorthAmerica, 46.78, -56.18),
    c(b"PN", "Pitcairn", AsiaPacific, -25.07, -130.10),
    c(b"PR", "Puerto Rico", NorthAmerica, 18.30, -66.30),
    c(b"PS", "Palestine", MiddleEast, 31.80, 35.10),
    c(b"PT", "Portugal", Europe, 39.70, -8.60),
    c(b"PW", "Palau", AsiaPacific, 7.35, 134.48),
    c(b"PY", "Paraguay", SouthAmerica, -25.30, -57.00),
    c(b"QA", "Qatar", MiddleEast, 25.30, 51.45),
    c(b"RE", "Reunion", Africa, -21.10, 55.50),
    c(b"RO", "Romania", Europe, 45.60, 25.60),
    c(b"RS", "Serbia", Europe, 44.40, 20.60),
    c(b"RU", "Russia", Europe, 55.90, 43.00),
    c(b"RW", "Rwanda", Africa, -2.00, 29.90),
    c(b"SA", "Saudi Arabia", MiddleEast, 24.00, 44.00),
    c(b"SB", "Solomon Islands", AsiaPacific, -9.40, 160.00),
    c(b"SC", "Seychelles", Africa, -4.65, 55.47),
    c(b"SD", "Sudan", Africa, 14.70, 32.00),
    c(b"SE", "Sweden", Europe, 58.90, 16.00),
    c(b"SG", "Singapore", AsiaPacific, 1.35, 103.82),
    c(b"SH", "Saint Helena, Ascension and Tristan da Cunha", Africa, -15.95, -5.70),
    c(b"SI", "Slovenia", Europe, 46.15, 14.80),
    c(b"SJ", "Svalbard and Jan Mayen", Europe, 78.22, 15.64),
    c(b"SK", "Slovakia", Europe, 48.70, 19.20),
    c(b"SL", "Sierra Leone", Africa, 8.40, -12.30),
    c(b"SM", "San Marino", Europe, 43.94, 12.46),
    c(b"SN", "Senegal", Africa, 14.60, -16.10),
    c(b"SO", "Somalia", Africa, 4.50, 45.00),
    c(b"SR", "Suriname", SouthAmerica, 5.80, -55.20),
    c(b"SS", "South Sudan", Africa, 7.00, 30.80),
    c(b"ST", "Sao Tome and Principe", Africa, 0.33, 6.70),
    c(b"SV", "El Salvador", NorthAmerica, 13.70, -89.10),
    c(b"SX", "Sint Maarten", NorthAmerica, 18.04, -63.06),
    c(b"SY", "Syria", MiddleEast, 34.80, 36.90),
    c(b"SZ", "Eswatini", Africa, -26.40, 31.40),
    c(b"TC", "Turks and Caicos Islands", NorthAmerica, 21.80, -72.20),
    c(b"TD", "Chad", Africa, 11.20, 16.20),
    c(b"TF", "French Southern Territories", Africa, -49.35, 70.22),
    c(b"TG", "Togo", Africa, 7.20, 1.10),
    c(b"TH", "Thailand", AsiaPacific, 14.80, 100.90),
    c(b"TJ", "Tajikistan", AsiaPacific, 38.50, 69.20),
    c(b"TK", "Tokelau", AsiaPacific, -9.20, -171.80),
    c(b"TL", "Timor-Leste", AsiaPacific, -8.70, 125.80),
    c(b"TM", "Turkmenistan", AsiaPacific, 38.60, 59.50),
    c(b"TN", "Tunisia", Africa, 35.90, 10.00),
    c(b"TO", "Tonga", AsiaPacific, -21.17, -175.17),
    c(b"TR", "Turkiye", Europe, 39.60, 32.40),
    c(b"TT", "Trinidad and Tobago", NorthAmerica, 10.50, -61.35),
    c(b"TV", "Tuvalu", AsiaPacific, -8.52, 179.20),
    c(b"TW", "Taiwan", AsiaPacific, 24.40, 121.00),
    c(b"TZ", "Tanzania", Africa, -5.80, 35.70),
    c(b"UA", "Ukraine", Europe, 49.20, 31.50),
    c(b"UG", "Uganda", Africa, 0.80, 32.40),
    c(b"UM", "US Minor Outlying Islands", AsiaPacific, 19.28, 166.65),
    c(b"US", "United States", NorthAmerica, 39.50, -92.00),
    c(b"UY", "Uruguay", SouthAmerica, -34.30, -56.10),
    c(b"UZ", "Uzbekistan", AsiaPacific, 40.40, 67.50),
    c(b"VA", "Vatican City", Europe, 41.90, 12.45),
    c(b"VC", "Saint Vincent and the Grenadines", NorthAmerica, 13.20, -61.23),
    c(b"VE", "Venezuela", SouthAmerica, 9.90, -67.60),
    c(b"VG", "British Virgin Islands", NorthAmerica, 18.43, -64.62),
    c(b"VI", "US Virgin Islands", NorthAmerica, 18.20, -64.80),
    c(b"VN", "Vietnam", AsiaPacific, 16.00, 106.50),
    c(b"VU", "Vanuatu", AsiaPacific, -17.10, 168.20),
    c(b"WF", "Wallis and Futuna", AsiaPacific, -13.29, -176.18),
    c(b"WS", "Samoa", AsiaPacific, -13.85, -171.80),
    c(b"XK", "Kosovo", Europe, 42.60, 20.95),
    c(b"YE", "Yemen", MiddleEast, 14.40, 44.60),
    c(b"YT", "Mayotte", Africa, -12.80, 45.17),
    c(b"ZA", "South Africa", Africa, -27.80, 28.00),
    c(b"ZM", "Zambia", Africa, -13.80, 28.40),
    c(b"ZW", "Zimbabwe", Africa, -18.50, 30.60),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Point;

    fn facts(code: &[u8; 2]) -> &'static CountryFacts {
        country_facts(*code).unwrap()
    }

    /// Distance in km between a country's point and a place known independently of the table.
    fn km_from(code: &[u8; 2], lat: f32, lon: f32) -> f32 {
        let at = facts(code);
        Point::on_globe(at.lat, at.lon).distance_km(Point::on_globe(lat, lon))
    }

    #[test]
    fn codes_are_sorted_unique_and_upper_case() {
        assert!(COUNTRIES.is_sorted_by(|a, b| a.code < b.code));
        assert!(COUNTRIES.iter().all(|facts| facts.code.iter().all(u8::is_ascii_uppercase)));
    }

    #[test]
    fn all_of_iso_3166_1_and_kosovo() {
        assert_eq!(COUNTRIES.len(), 249 + 1);
        assert_eq!(facts(b"XK").name, "Kosovo");
    }

    #[test]
    fn every_country_is_found_and_nothing_else() {
        for facts in &COUNTRIES {
            assert_eq!(country_facts(facts.code).unwrap().name, facts.name);
        }
        for unassigned in [b"AA", b"UK", b"EU", b"ZZ", b"de"] {
            assert!(country_facts(*unassigned).is_none());
        }
    }

    #[test]
    fn names_are_plain_and_unique() {
        let mut names: Vec<_> = COUNTRIES.iter().map(|facts| facts.name).collect();
        assert!(names.iter().all(|name| !name.is_empty() && name.is_ascii() && name.trim() == *name));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COUNTRIES.len());
    }

    #[test]
    fn positions_are_on_the_globe() {
        for facts in &COUNTRIES {
            assert!((-90.0..=90.0).contains(&facts.lat), "{facts:?}");
            assert!((-180.0..=180.0).contains(&facts.lon), "{facts:?}");
        }
    }

    #[test]
    fn areas_lie_in_their_quarter_of_the_globe() {
        // Wide boxes: they let no wrong sign through on either axis, nor latitude and longitude swapped.
        for facts in &COUNTRIES {
            let (lats, lons) = match facts.area {
                SouthAmerica => (-63.0..=13.0, -82.0..=-34.0),
                NorthAmerica => (7.0..=66.0, -125.0..=-51.0),
                Europe => (34.0..=79.0, -25.0..=50.0),
                Africa => (-55.0..=37.0, -25.0..=71.0),
                MiddleEast => (12.0..=38.0, 34.0..=60.0),
                // Samoa, Tonga and Polynesia lie beyond the date line.
                AsiaPacific => (-54.0..=49.0, if facts.lon < 0.0 { -180.0..=-130.0 } else { 59.0..=180.0 }),
            };
            assert!(lats.contains(&facts.lat) && lons.contains(&facts.lon), "{facts:?}");
        }
    }

    #[test]
    fn places_known_by_heart() {
        assert_eq!(facts(b"KE").area, Africa);
        assert!(km_from(b"KE", 0.0, 37.0) < 150.0);
        assert!(facts(b"BR").lat < 0.0 && facts(b"BR").lon < 0.0);
        for (code, lat, lon, bound) in [
            (b"AR", -34.6, -58.4, 300.0),
            (b"AU", -35.3, 149.1, 150.0),
            (b"BR", -23.5, -46.6, 500.0),
            (b"CA", 45.4, -75.7, 200.0),
            (b"CL", -33.4, -70.7, 150.0),
            (b"DE", 50.1, 8.7, 150.0),
            (b"GB", 51.5, -0.1, 200.0),
            (b"IN", 23.0, 79.5, 200.0),
            (b"JP", 35.7, 139.7, 250.0),
            (b"NG", 9.1, 7.4, 150.0),
            (b"NZ", -41.3, 174.8, 300.0),
            (b"RU", 55.8, 37.6, 400.0),
            (b"US", 38.6, -90.2, 250.0),
            (b"ZA", -26.2, 28.0, 250.0),
        ] {
            assert!(km_from(code, lat, lon) < bound, "{:?}", facts(code));
        }
    }

    #[test]
    fn borders_between_areas() {
        for (code, area) in [
            (b"AQ", SouthAmerica),
            (b"CY", Europe),
            (b"EG", Africa),
            (b"GE", Europe),
            (b"GL", NorthAmerica),
            (b"IL", MiddleEast),
            (b"IR", MiddleEast),
            (b"KZ", AsiaPacific),
            (b"MX", NorthAmerica),
            (b"PA", NorthAmerica),
            (b"PK", AsiaPacific),
            (b"RU", Europe),
            (b"TR", Europe),
            (b"TT", NorthAmerica),
            (b"YE", MiddleEast),
        ] {
            assert_eq!(facts(code).area, area, "{:?}", facts(code));
        }
    }
}
