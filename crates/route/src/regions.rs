//! Where the regions of the large hosts are, so that a backend needs no more than a region code.
//!
//! The codes are those of the providers' public region lists: Fly.io (also the regions it has given up, which tables
//! may still name), AWS, Google Cloud and Azure, government and China regions included. Where a provider names only a
//! state, a province or a country, the city is the one its data centres are known to be in or near. Added to these are
//! the coarse codes of older routing tables (`sa`, `us`, `na`, `eu`, `ap`, `af`, `me`): they stand for a part of the
//! world and lie at its best connected city, `us` and `na` in the middle of the United States.
//!
//! The spelling of a code matters: `us-east-1` (AWS) and `us-east1` (Google Cloud) are different places.
//!
//! Positions are degrees of latitude and longitude (WGS 84) with two decimals: those of the city, not of the building.

use crate::place::Area;
use crate::place::Area::{Africa, AsiaPacific, Europe, MiddleEast, NorthAmerica, SouthAmerica};

/// What is known of one region.
#[derive(Debug)]
pub(crate) struct RegionFacts {
    /// As the provider spells it.
    pub(crate) code: &'static str,
    /// In ASCII. The name of the part of the world if the code is a coarse one.
    pub(crate) city: &'static str,
    /// ISO 3166-1 alpha-2, upper case.
    pub(crate) country: [u8; 2],
    pub(crate) area: Area,
    /// Degrees north.
    pub(crate) lat: f32,
    /// Degrees east.
    pub(crate) lon: f32,
}

/// The facts of a region; `None` for a code no provider of this table has. Codes are lower case.
pub(crate) fn region_facts(code: &str) -> Option<&'static RegionFacts> {
    let at = REGIONS.binary_search_by_key(&code, |facts| facts.code).ok()?;
    REGIONS.get(at)
}

const fn r(code: &'static str, city: &'static str, country: &[u8; 2], area: Area, lat: f32, lon: f32) -> RegionFacts {
    RegionFacts { code, city, country: *country, area, lat, lon }
}

/// Sorted by code, byte by byte: the lookup is a binary search.
// One row a line, so that a correction shows as the one line it is.
#[rustfmt::skip]
pub(crate) static REGIONS: [RegionFacts; 212] = [
    r("af", "Africa", b"ZA", Africa, -26.20, 28.05),
    r("af-south-1", "Cape Town", b"ZA", Africa, -33.92, 18.42),
    r("africa-south1", "Johannesburg", b"ZA", Africa, -26.20, 28.05),
    r("ams", "Amsterdam", b"NL", Europe, 52.37, 4.90),
    r("ap", "Asia Pacific", b"SG", AsiaPacific, 1.35, 103.82),
    r("ap-east-1", "Hong Kong", b"HK", AsiaPacific, 22.32, 114.17),
    r("ap-east-2", "Taipei", b"TW", AsiaPacific, 25.03, 121.57),
    r("ap-northeast-1", "Tokyo", b"JP", AsiaPacific, 35.68, 139.69),
    r("ap-northeast-2", "Seoul", b"KR", AsiaPacific, 37.57, 126.98),
    r("ap-northeast-3", "Osaka", b"JP", AsiaPacific, 34.69, 135.50),
    r("ap-south-1", "Mumbai", b"IN", AsiaPacific, 19.08, 72.88),
    r("ap-south-2", "Hyderabad", b"IN", AsiaPacific, 17.39, 78.49),
    r("ap-southeast-1", "Singapore", b"SG", AsiaPacific, 1.35, 103.82),
    r("ap-southeast-2", "Sydney", b"AU", AsiaPacific, -33.87, 151.21),
    r("ap-southeast-3", "Jakarta", b"ID", AsiaPacific, -6.21, 106.85),
    r("ap-southeast-4", "Melbourne", b"AU", AsiaPacific, -37.81, 144.96),
    r("ap-southeast-5", "Kuala Lumpur", b"MY", AsiaPacific, 3.15, 101.69),
    r("ap-southeast-6", "Auckland", b"NZ", AsiaPacific, -36.85, 174.76),
    r("ap-southeast-7", "Bangkok", b"TH", AsiaPacific, 13.76, 100.50),
    r("arn", "Stockholm", b"SE", Europe, 59.33, 18.07),
    r("asia-east1", "Changhua", b"TW", AsiaPacific, 24.05, 120.52),
    r("asia-east2", "Hong Kong", b"HK", AsiaPacific, 22.32, 114.17),
    r("asia-northeast1", "Tokyo", b"JP", AsiaPacific, 35.68, 139.69),
    r("asia-northeast2", "Osaka", b"JP", AsiaPacific, 34.69, 135.50),
    r("asia-northeast3", "Seoul", b"KR", AsiaPacific, 37.57, 126.98),
    r("asia-south1", "Mumbai", b"IN", AsiaPacific, 19.08, 72.88),
    r("asia-south2", "Delhi", b"IN", AsiaPacific, 28.61, 77.21),
    r("asia-southeast1", "Singapore", b"SG", AsiaPacific, 1.35, 103.82),
    r("asia-southeast2", "Jakarta", b"ID", AsiaPacific, -6.21, 106.85),
    r("asia-southeast3", "Bangkok", b"TH", AsiaPacific, 13.76, 100.50),
    r("atl", "Atlanta", b"US", NorthAmerica, 33.75, -84.39),
    r("australia-southeast1", "Sydney", b"AU", AsiaPacific, -33.87, 151.21),
    r("australia-southeast2", "Melbourne", b"AU", AsiaPacific, -37.81, 144.96),
    r("australiacentral", "Canberra", b"AU", AsiaPacific, -35.28, 149.13),
    r("australiacentral2", "Canberra", b"AU", AsiaPacific, -35.28, 149.13),
    r("australiaeast", "Sydney", b"AU", AsiaPacific, -33.87, 151.21),
    r("australiasoutheast", "Melbourne", b"AU", AsiaPacific, -37.81, 144.96),
    r("austriaeast", "Vienna", b"AT", Europe, 48.21, 16.37),
    r("belgiumcentral", "Brussels", b"BE", Europe, 50.85, 4.35),
    r("bog", "Bogota", b"CO", SouthAmerica, 4.71, -74.07),
    r("bom", "Mumbai", b"IN", AsiaPacific, 19.08, 72.88),
    r("bos", "Boston", b"US", NorthAmerica, 42.36, -71.06),
    r("brazilsouth", "Sao Paulo", b"BR", SouthAmerica, -23.55, -46.63),
    r("brazilsoutheast", "Rio de Janeiro", b"BR", SouthAmerica, -22.91, -43.17),
    r("ca-central-1", "Montreal", b"CA", NorthAmerica, 45.50, -73.57),
    r("ca-west-1", "Calgary", b"CA", NorthAmerica, 51.05, -114.07),
    r("canadacentral", "Toronto", b"CA", NorthAmerica, 43.65, -79.38),
    r("canadaeast", "Quebec City", b"CA", NorthAmerica, 46.81, -71.21),
    r("cdg", "Paris", b"FR", Europe, 48.86, 2.35),
    r("centralindia", "Pune", b"IN", AsiaPacific, 18.52, 73.86),
    r("centralus", "Iowa (Des Moines)", b"US", NorthAmerica, 41.59, -93.62),
    r("centraluseuap", "Iowa (Des Moines)", b"US", NorthAmerica, 41.59, -93.62),
    r("chilecentral", "Santiago", b"CL", SouthAmerica, -33.45, -70.67),
    r("chinaeast", "Shanghai", b"CN", AsiaPacific, 31.23, 121.47),
    r("chinaeast2", "Shanghai", b"CN", AsiaPacific, 31.23, 121.47),
    r("chinaeast3", "Jiangsu (Suzhou)", b"CN", AsiaPacific, 31.30, 120.59),
    r("chinanorth", "Beijing", b"CN", AsiaPacific, 39.90, 116.41),
    r("chinanorth2", "Beijing", b"CN", AsiaPacific, 39.90, 116.41),
    r("chinanorth3", "Hebei (Zhangjiakou)", b"CN", AsiaPacific, 40.77, 114.88),
    r("cn-north-1", "Beijing", b"CN", AsiaPacific, 39.90, 116.41),
    r("cn-northwest-1", "Ningxia (Zhongwei)", b"CN", AsiaPacific, 37.50, 105.19),
    r("den", "Denver", b"US", NorthAmerica, 39.74, -104.99),
    r("denmarkeast", "Copenhagen", b"DK", Europe, 55.68, 12.57),
    r("dfw", "Dallas", b"US", NorthAmerica, 32.78, -96.80),
    r("eastasia", "Hong Kong", b"HK", AsiaPacific, 22.32, 114.17),
    r("eastus", "Virginia (Ashburn)", b"US", NorthAmerica, 39.04, -77.49),
    r("eastus2", "Virginia (Boydton)", b"US", NorthAmerica, 36.67, -78.39),
    r("eastus2euap", "Virginia (Boydton)", b"US", NorthAmerica, 36.67, -78.39),
    r("eastus3", "Atlanta", b"US", NorthAmerica, 33.75, -84.39),
    r("eu", "Europe", b"DE", Europe, 50.11, 8.68),
    r("eu-central-1", "Frankfurt", b"DE", Europe, 50.11, 8.68),
    r("eu-central-2", "Zurich", b"CH", Europe, 47.38, 8.54),
    r("eu-north-1", "Stockholm", b"SE", Europe, 59.33, 18.07),
    r("eu-south-1", "Milan", b"IT", Europe, 45.46, 9.19),
    r("eu-south-2", "Zaragoza", b"ES", Europe, 41.65, -0.89),
    r("eu-west-1", "Dublin", b"IE", Europe, 53.35, -6.26),
    r("eu-west-2", "London", b"GB", Europe, 51.51, -0.13),
    r("eu-west-3", "Paris", b"FR", Europe, 48.86, 2.35),
    r("europe-central2", "Warsaw", b"PL", Europe, 52.23, 21.01),
    r("europe-north1", "Hamina", b"FI", Europe, 60.57, 27.20),
    r("europe-north2", "Stockholm", b"SE", Europe, 59.33, 18.07),
    r("europe-southwest1", "Madrid", b"ES", Europe, 40.42, -3.70),
    r("europe-west1", "Saint-Ghislain", b"BE", Europe, 50.45, 3.82),
    r("europe-west10", "Berlin", b"DE", Europe, 52.52, 13.41),
    r("europe-west12", "Turin", b"IT", Europe, 45.07, 7.69),
    r("europe-west2", "London", b"GB", Europe, 51.51, -0.13),
    r("europe-west3", "Frankfurt", b"DE", Europe, 50.11, 8.68),
    r("europe-west4", "Eemshaven", b"NL", Europe, 53.44, 6.83),
    r("europe-west6", "Zurich", b"CH", Europe, 47.38, 8.54),
    r("europe-west8", "Milan", b"IT", Europe, 45.46, 9.19),
    r("europe-west9", "Paris", b"FR", Europe, 48.86, 2.35),
    r("eusc-de-east-1", "Brandenburg (Potsdam)", b"DE", Europe, 52.40, 13.06),
    r("ewr", "Secaucus", b"US", NorthAmerica, 40.79, -74.06),
    r("eze", "Ezeiza", b"AR", SouthAmerica, -34.85, -58.52),
    r("fra", "Frankfurt", b"DE", Europe, 50.11, 8.68),
    r("francecentral", "Paris", b"FR", Europe, 48.86, 2.35),
    r("francesouth", "Marseille", b"FR", Europe, 43.30, 5.37),
    r("gdl", "Guadalajara", b"MX", NorthAmerica, 20.67, -103.35),
    r("germanycentral", "Frankfurt", b"DE", Europe, 50.11, 8.68),
    r("germanynorth", "Berlin", b"DE", Europe, 52.52, 13.41),
    r("germanynortheast", "Magdeburg", b"DE", Europe, 52.13, 11.63),
    r("germanywestcentral", "Frankfurt", b"DE", Europe, 50.11, 8.68),
    r("gig", "Rio de Janeiro", b"BR", SouthAmerica, -22.91, -43.17),
    r("gru", "Sao Paulo", b"BR", SouthAmerica, -23.55, -46.63),
    r("hkg", "Hong Kong", b"HK", AsiaPacific, 22.32, 114.17),
    r("iad", "Virginia (Ashburn)", b"US", NorthAmerica, 39.04, -77.49),
    r("il-central-1", "Tel Aviv", b"IL", MiddleEast, 32.09, 34.78),
    r("indiasouthcentral", "Hyderabad", b"IN", AsiaPacific, 17.39, 78.49),
    r("indonesiacentral", "Jakarta", b"ID", AsiaPacific, -6.21, 106.85),
    r("israelcentral", "Tel Aviv", b"IL", MiddleEast, 32.09, 34.78),
    r("italynorth", "Milan", b"IT", Europe, 45.46, 9.19),
    r("japaneast", "Tokyo", b"JP", AsiaPacific, 35.68, 139.69),
    r("japanwest", "Osaka", b"JP", AsiaPacific, 34.69, 135.50),
    r("jioindiacentral", "Nagpur", b"IN", AsiaPacific, 21.15, 79.09),
    r("jioindiawest", "Jamnagar", b"IN", AsiaPacific, 22.47, 70.06),
    r("jnb", "Johannesburg", b"ZA", Africa, -26.20, 28.05),
    r("koreacentral", "Seoul", b"KR", AsiaPacific, 37.57, 126.98),
    r("koreasouth", "Busan", b"KR", AsiaPacific, 35.18, 129.08),
    r("lax", "Los Angeles", b"US", NorthAmerica, 34.05, -118.24),
    r("lhr", "London", b"GB", Europe, 51.51, -0.13),
    r("maa", "Chennai", b"IN", AsiaPacific, 13.08, 80.27),
    r("mad", "Madrid", b"ES", Europe, 40.42, -3.70),
    r("malaysiawest", "Kuala Lumpur", b"MY", AsiaPacific, 3.15, 101.69),
    r("me", "Middle East", b"AE", MiddleEast, 25.20, 55.27),
    r("me-central-1", "Dubai", b"AE", MiddleEast, 25.20, 55.27),
    r("me-central1", "Doha", b"QA", MiddleEast, 25.29, 51.53),
    r("me-central2", "Dammam", b"SA", MiddleEast, 26.43, 50.10),
    r("me-south-1", "Manama", b"BH", MiddleEast, 26.23, 50.59),
    r("me-west1", "Tel Aviv", b"IL", MiddleEast, 32.09, 34.78),
    r("mexicocentral", "Queretaro", b"MX", NorthAmerica, 20.59, -100.39),
    r("mia", "Miami", b"US", NorthAmerica, 25.76, -80.19),
    r("mrs", "Marseille", b"FR", Europe, 43.30, 5.37),
    r("mx-central-1", "Queretaro", b"MX", NorthAmerica, 20.59, -100.39),
    r("na", "North America", b"US", NorthAmerica, 39.50, -92.00),
    r("newzealandnorth", "Auckland", b"NZ", AsiaPacific, -36.85, 174.76),
    r("northamerica-northeast1", "Montreal", b"CA", NorthAmerica, 45.50, -73.57),
    r("northamerica-northeast2", "Toronto", b"CA", NorthAmerica, 43.65, -79.38),
    r("northamerica-south1", "Queretaro", b"MX", NorthAmerica, 20.59, -100.39),
    r("northcentralus", "Chicago", b"US", NorthAmerica, 41.88, -87.63),
    r("northeurope", "Dublin", b"IE", Europe, 53.35, -6.26),
    r("norwayeast", "Oslo", b"NO", Europe, 59.91, 10.75),
    r("norwaywest", "Stavanger", b"NO", Europe, 58.97, 5.73),
    r("nrt", "Tokyo", b"JP", AsiaPacific, 35.68, 139.69),
    r("ord", "Chicago", b"US", NorthAmerica, 41.88, -87.63),
    r("otp", "Bucharest", b"RO", Europe, 44.43, 26.10),
    r("phx", "Phoenix", b"US", NorthAmerica, 33.45, -112.07),
    r("polandcentral", "Warsaw", b"PL", Europe, 52.23, 21.01),
    r("qatarcentral", "Doha", b"QA", MiddleEast, 25.29, 51.53),
    r("qro", "Queretaro", b"MX", NorthAmerica, 20.59, -100.39),
    r("sa", "South America", b"BR", SouthAmerica, -23.55, -46.63),
    r("sa-east-1", "Sao Paulo", b"BR", SouthAmerica, -23.55, -46.63),
    r("sa-west-1", "Santiago", b"CL", SouthAmerica, -33.45, -70.67),
    r("saudiarabiaeast", "Dammam", b"SA", MiddleEast, 26.43, 50.10),
    r("scl", "Santiago", b"CL", SouthAmerica, -33.45, -70.67),
    r("sea", "Seattle", b"US", NorthAmerica, 47.61, -122.33),
    r("sin", "Singapore", b"SG", AsiaPacific, 1.35, 103.82),
    r("sjc", "San Jose", b"US", NorthAmerica, 37.34, -121.89),
    r("southafricanorth", "Johannesburg", b"ZA", Africa, -26.20, 28.05),
    r("southafricawest", "Cape Town", b"ZA", Africa, -33.92, 18.42),
    r("southamerica-east1", "Sao Paulo", b"BR", SouthAmerica, -23.55, -46.63),
    r("southamerica-west1", "Santiago", b"CL", SouthAmerica, -33.45, -70.67),
    r("southcentralus", "San Antonio", b"US", NorthAmerica, 29.42, -98.49),
    r("southeastasia", "Singapore", b"SG", AsiaPacific, 1.35, 103.82),
    r("southeastasia3", "Johor Bahru", b"MY", AsiaPacific, 1.49, 103.74),
    r("southindia", "Chennai", b"IN", AsiaPacific, 13.08, 80.27),
    r("spaincentral", "Madrid", b"ES", Europe, 40.42, -3.70),
    r("swedencentral", "Gavle", b"SE", Europe, 60.67, 17.14),
    r("swedensouth", "Malmo", b"SE", Europe, 55.60, 13.00),
    r("switzerlandnorth", "Zurich", b"CH", Europe, 47.38, 8.54),
    r("switzerlandwest", "Geneva", b"CH", Europe, 46.20, 6.14),
    r("syd", "Sydney", b"AU", AsiaPacific, -33.87, 151.21),
    r("taiwannorth", "Taipei", b"TW", AsiaPacific, 25.03, 121.57),
    r("taiwannorthwest", "Taipei", b"TW", AsiaPacific, 25.03, 121.57),
    r("uaecentral", "Abu Dhabi", b"AE", MiddleEast, 24.45, 54.38),
    r("uaenorth", "Dubai", b"AE", MiddleEast, 25.20, 55.27),
    r("uksouth", "London", b"GB", Europe, 51.51, -0.13),
    r("ukwest", "Cardiff", b"GB", Europe, 51.48, -3.18),
    r("us", "North America", b"US", NorthAmerica, 39.50, -92.00),
    r("us-central1", "Iowa (Council Bluffs)", b"US", NorthAmerica, 41.26, -95.86),
    r("us-central2", "Oklahoma (Pryor)", b"US", NorthAmerica, 36.31, -95.32),
    r("us-east-1", "Virginia (Ashburn)", b"US", NorthAmerica, 39.04, -77.49),
    r("us-east-2", "Columbus", b"US", NorthAmerica, 39.96, -83.00),
    r("us-east1", "South Carolina (Moncks Corner)", b"US", NorthAmerica, 33.20, -80.01),
    r("us-east4", "Virginia (Ashburn)", b"US", NorthAmerica, 39.04, -77.49),
    r("us-east5", "Columbus", b"US", NorthAmerica, 39.96, -83.00),
    r("us-east7", "Alabama (Bridgeport)", b"US", NorthAmerica, 34.95, -85.71),
    r("us-gov-east-1", "Columbus", b"US", NorthAmerica, 39.96, -83.00),
    r("us-gov-west-1", "Oregon (Boardman)", b"US", NorthAmerica, 45.84, -119.70),
    r("us-south1", "Dallas", b"US", NorthAmerica, 32.78, -96.80),
    r("us-west-1", "San Jose", b"US", NorthAmerica, 37.34, -121.89),
    r("us-west-2", "Oregon (Boardman)", b"US", NorthAmerica, 45.84, -119.70),
    r("us-west1", "Oregon (The Dalles)", b"US", NorthAmerica, 45.59, -121.18),
    r("us-west2", "Los Angeles", b"US", NorthAmerica, 34.05, -118.24),
    r("us-west3", "Salt Lake City", b"US", NorthAmerica, 40.76, -111.89),
    r("us-west4", "Las Vegas", b"US", NorthAmerica, 36.17, -115.14),
    r("us-west8", "Phoenix", b"US", NorthAmerica, 33.45, -112.07),
    r("usdodcentral", "Iowa (Des Moines)", b"US", NorthAmerica, 41.59, -93.62),
    r("usdodeast", "Virginia (Boydton)", b"US", NorthAmerica, 36.67, -78.39),
    r("usgovarizona", "Phoenix", b"US", NorthAmerica, 33.45, -112.07),
    r("usgoviowa", "Iowa (Des Moines)", b"US", NorthAmerica, 41.59, -93.62),
    r("usgovtexas", "San Antonio", b"US", NorthAmerica, 29.42, -98.49),
    r("usgovvirginia", "Virginia (Boydton)", b"US", NorthAmerica, 36.67, -78.39),
    r("vin", "Virginia (Vint Hill)", b"US", NorthAmerica, 38.75, -77.67),
    r("waw", "Warsaw", b"PL", Europe, 52.23, 21.01),
    r("westcentralus", "Wyoming (Cheyenne)", b"US", NorthAmerica, 41.14, -104.82),
    r("westeurope", "Amsterdam", b"NL", Europe, 52.37, 4.90),
    r("westindia", "Mumbai", b"IN", AsiaPacific, 19.08, 72.88),
    r("westus", "San Francisco", b"US", NorthAmerica, 37.77, -122.42),
    r("westus2", "Washington (Quincy)", b"US", NorthAmerica, 47.23, -119.85),
    r("westus3", "Phoenix", b"US", NorthAmerica, 33.45, -112.07),
    r("yul", "Montreal", b"CA", NorthAmerica, 45.50, -73.57),
    r("yyz", "Toronto", b"CA", NorthAmerica, 43.65, -79.38),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::countries::country_facts;
    use crate::place::Point;

    fn km_between(a: (f32, f32), b: (f32, f32)) -> f32 {
        Point::on_globe(a.0, a.1).distance_km(Point::on_globe(b.0, b.1))
    }

    #[test]
    fn codes_are_sorted_unique_and_lower_case() {
        assert!(REGIONS.is_sorted_by(|a, b| a.code < b.code));
        for facts in &REGIONS {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(facts.code.bytes().all(plain), "{facts:?}");
            assert!(!facts.city.is_empty() && facts.city.is_ascii(), "{facts:?}");
        }
    }

    #[test]
    fn every_region_is_found_and_nothing_else() {
        for facts in &REGIONS {
            assert_eq!(region_facts(facts.code).unwrap().city, facts.city);
        }
        for unknown in ["", "IAD", "us-east-", "us-east-9", "zzz"] {
            assert!(region_facts(unknown).is_none());
        }
    }

    #[test]
    fn countries_exist_and_agree_on_the_area() {
        for facts in &REGIONS {
            let country = country_facts(facts.country).unwrap();
            assert_eq!(facts.area, country.area, "{facts:?}");
        }
    }

    #[test]
    fn positions_are_on_the_globe_and_near_their_country() {
        for facts in &REGIONS {
            assert!((-90.0..=90.0).contains(&facts.lat), "{facts:?}");
            assert!((-180.0..=180.0).contains(&facts.lon), "{facts:?}");
            let country = country_facts(facts.country).unwrap();
            let bound = match &facts.country {
                b"US" | b"CA" => 3_000.0,
                b"AU" | b"BR" | b"CN" | b"IN" | b"ZA" => 1_300.0,
                _ => 800.0,
            };
            let km = km_between((facts.lat, facts.lon), (country.lat, country.lon));
            assert!(km < bound, "{facts:?} is {km} km from the middle of {}", country.name);
        }
    }

    #[test]
    fn one_city_has_one_position() {
        // Catches a slip in one of the many rows of the same city.
        for a in &REGIONS {
            for b in REGIONS.iter().filter(|b| b.city == a.city && b.code.len() > 2 && a.code.len() > 2) {
                assert_eq!((a.country, a.lat, a.lon), (b.country, b.lat, b.lon), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_ten_first_regions() {
        for (code, city, country, lat, lon) in [
            ("gru", "Sao Paulo", b"BR", -23.5, -46.6),
            ("iad", "Virginia (Ashburn)", b"US", 39.0, -77.5),
            ("ord", "Chicago", b"US", 41.9, -87.6),
            ("lax", "Los Angeles", b"US", 34.1, -118.2),
            ("lhr", "London", b"GB", 51.5, -0.1),
            ("fra", "Frankfurt", b"DE", 50.1, 8.7),
            ("cdg", "Paris", b"FR", 48.9, 2.4),
            ("nrt", "Tokyo", b"JP", 35.7, 139.7),
            ("sin", "Singapore", b"SG", 1.4, 103.8),
            ("syd", "Sydney", b"AU", -33.9, 151.2),
        ] {
            let facts = region_facts(code).unwrap();
            assert_eq!((facts.city, &facts.country), (city, country));
            assert!(km_between((facts.lat, facts.lon), (lat, lon)) < 20.0, "{facts:?}");
        }
    }

    #[test]
    fn coarse_codes_are_those_of_the_areas() {
        for (code, city, country) in [
            ("af", "Africa", b"ZA"),
            ("ap", "Asia Pacific", b"SG"),
            ("eu", "Europe", b"DE"),
            ("me", "Middle East", b"AE"),
            ("na", "North America", b"US"),
            ("sa", "South America", b"BR"),
            ("us", "North America", b"US"),
        ] {
            let facts = region_facts(code).unwrap();
            assert_eq!((facts.city, &facts.country), (city, country));
            assert_eq!(Area::from_code(code), Some(facts.area));
        }
        assert_eq!(REGIONS.iter().filter(|facts| Area::from_code(facts.code).is_some()).count(), 7);
    }

    #[test]
    fn codes_that_look_alike_are_different_places() {
        for (code, city) in [
            ("us-east-1", "Virginia (Ashburn)"),
            ("us-east1", "South Carolina (Moncks Corner)"),
            ("us-west-1", "San Jose"),
            ("us-west1", "Oregon (The Dalles)"),
            ("me-central-1", "Dubai"),
            ("me-central1", "Doha"),
            ("ap-southeast-2", "Sydney"),
            ("asia-southeast2", "Jakarta"),
        ] {
            assert_eq!(region_facts(code).unwrap().city, city);
        }
    }
}
